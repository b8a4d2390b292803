"""Where a study's jobs run: on the GPUs or cores of this machine, on SLURM, or by the user's own Snakemake profile."""

import re
import signal
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_cpr.batch.gpus import gpus_here
from nnunet_cpr.batch.slurm import slurm_arguments
from nnunet_cpr.files import user_path
from nnunet_cpr.parallel import job_cores, training_threads

_NO_PROFILES = ["--profile", "none", "--workflow-profile", "none"]
"""Those of the user, or of the current folder, are for other workflows."""


@dataclass(frozen=True)
class Place:
    """What follows from --gpus, --jobs, --slurm and --profile."""

    arguments: list[str]
    """Snakemake's."""
    stop_signal: int
    """What stops Snakemake and its jobs."""
    gpus: list[str] = field(default_factory=list)
    """To be shared among the trainings; empty where there are none, or the cluster gives them."""
    sbatch: dict[str, list[str]] = field(default_factory=dict)
    """sbatch's options for each kind of job."""
    cluster: bool = False
    threads: int | None = None
    """Of each training on this machine's CPU; None elsewhere."""


def find_place(args: Namespace, device: str, gpus_per_training: int) -> Place:
    """Return where the flags say that the trainings run.

    Raises:
        ValueError: they make no sense, or what they ask for is not there.
    """
    if args.slurm is not None:
        arguments, sbatch = slurm_arguments(args.slurm, gpus_per_training)
        return Place([*arguments, *_NO_PROFILES], signal.SIGINT, sbatch=sbatch, cluster=True)
    if args.profile is not None:
        profile = user_path(args.profile)
        if not profile.is_dir():
            raise ValueError(f"--profile {profile} is not a folder; Snakemake's profiles are folders")
        return Place(["--profile", str(profile.resolve())], signal.SIGINT, cluster=True)
    gpus = _gpus(args, device)
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least one training must run at a time")
    if gpus and len(gpus) < gpus_per_training and not args.dry_run:
        raise ValueError(f"gpus_per_training is {gpus_per_training}, but there are only these GPUs: {', '.join(gpus)}")
    at_once = len(gpus) // gpus_per_training or args.jobs or 1
    # Snakemake's cores only count jobs here; how many processes each starts is its own business.
    arguments = ["--executor", "local", "--cores", str(at_once), "--resources", f"training={at_once}", "measuring=1"]
    threads = (training_threads() or max(1, job_cores() // at_once)) if device == "cpu" else None
    return Place([*arguments, *_NO_PROFILES], signal.SIGTERM, gpus, threads=threads)


def check_path(output: Path, args: Namespace) -> None:
    """Check whether jobs of a cluster can run in the study's output.

    Raises:
        ValueError: sbatch would not understand its path; or with --profile, for which Snakemake's own executors write
            paths into a shell's command, some of them between double quotes, a shell would change something of it.
    """
    if args.slurm is not None and ("\\" in str(output) or not str(output).isprintable()):
        raise ValueError(
            f"--slurm: the study's output is in {str(output)!r}, whose backslash or line break sbatch reads"
        )
    if args.profile is None:
        return
    for what, path in (("the study's output", output), ("Python", sys.executable), ("nnunet-cpr", Path(__file__))):
        if not re.fullmatch(r"[\w./+:@,=-]+", str(path)):
            raise ValueError(
                f"--profile: {what} is in {str(path)!r}, of which a shell would change something; "
                "use a path of letters, digits and . _ - + only, or --slurm"
            )


def _gpus(args: Namespace, device: str) -> list[str]:
    if device != "cuda":
        if args.gpus is not None:
            raise ValueError(f"--gpus means nothing with device: {device}")
        return []
    if args.jobs is not None:
        raise ValueError("--jobs is for studies without GPU (device: cpu); with GPUs, one training runs on each")
    gpus = [gpu.strip() for gpu in args.gpus.split(",") if gpu.strip()] if args.gpus is not None else gpus_here()
    if not gpus and not args.dry_run:
        raise ValueError("no GPU was found; name them with --gpus, or set device: cpu in the study")
    if len(set(gpus)) < len(gpus):
        raise ValueError(f"--gpus {args.gpus} names a GPU twice")
    return gpus
