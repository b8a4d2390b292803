"""`nnunet-cpr batch` and `nnunet-cpr status`: the flags. Imports nothing heavy before they run."""

import argparse
import json
import shlex
import signal
import sys
from importlib.util import find_spec
from typing import Any

from nnunet_cpr.files import user_path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register both commands."""
    batch = subparsers.add_parser(
        "batch",
        help="run a study: datasets x trainers x seeds x folds, then the comparison",
        description="Runs what is missing of a study and ends with its report. Call it again to go on.",
        epilog="Example: nnunet-cpr batch study.yaml --gpus 0,1",
    )
    _add_study(batch)
    batch.add_argument("--dry-run", action="store_true", help="show what there is to do, and do nothing")
    where = batch.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="0,1,...", help="of this machine, one training each (default: all)")
    where.add_argument("--jobs", type=int, metavar="N", help="without GPU: trainings at once (default: 1)")
    where.add_argument(
        "--slurm", metavar="KEY=VALUE,...",
        help="on a SLURM cluster: partition, account, qos, time, mem, cpus, constraint, gres, as for sbatch",
    )  # fmt: skip
    where.add_argument("--profile", metavar="FOLDER", help="on a cluster, by a Snakemake profile of yours")
    batch.set_defaults(run=run_batch)

    status = subparsers.add_parser(
        "status",
        help="show how far a study is",
        description="Shows how far each training of a study is, at any time and from any terminal.",
    )
    _add_study(status)
    status.set_defaults(run=run_status)


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY.yaml")
    parser.add_argument("--json", action="store_true", help="print the trainings as JSON")


def run_status(args: argparse.Namespace) -> int:
    """Print the state of every training."""
    from nnunet_cpr.batch.runs import as_dicts, states_of
    from nnunet_cpr.batch.states_table import states_table
    from nnunet_cpr.batch.study import read_study

    states = states_of(read_study(user_path(args.study)))
    print(json.dumps(as_dicts(states), indent=2) if args.json else states_table(states))
    return 0


def run_batch(args: argparse.Namespace) -> int:
    """Run the study: 0 if all is done, 1 if something failed, 130 if it was stopped."""
    if args.json and not args.dry_run:
        raise ValueError("--json goes with --dry-run")
    from nnunet_cpr.batch.plan import Plan, check_output
    from nnunet_cpr.batch.prepare import is_prepared
    from nnunet_cpr.batch.study import read_study

    study = read_study(user_path(args.study))
    check_output(study)
    gpus, arguments, stop_signal = _place(args, study.device)
    if args.dry_run:
        code = run_status(args)
        if not args.json:
            for dataset in study.datasets:
                print(f"{dataset}: {'prepared' if is_prepared(study, dataset) else 'to be prepared first'}")
        return code
    if find_spec("snakemake") is None:
        raise ValueError("a batch needs Snakemake: pip install 'nnunet-cpr[batch]' (Python 3.11 or later)")
    from nnunet_cpr.batch.slurm import jobs_left

    if jobs := jobs_left(study.output):
        raise ValueError(
            f"jobs of an earlier call are in the queue; wait for them, or stop them with: scancel {' '.join(jobs)}"
        )
    return _run(Plan(study, gpus), arguments, stop_signal)


def _place(args: argparse.Namespace, device: str) -> tuple[list[str], list[str], int]:
    """Return the GPUs, Snakemake's arguments and the signal that stops it, for where the trainings run."""
    from nnunet_cpr.batch.gpus import gpus_here
    from nnunet_cpr.batch.slurm import slurm_arguments

    if args.slurm:
        return [], slurm_arguments(args.slurm), signal.SIGINT
    if args.profile:
        profile = user_path(args.profile)
        if not profile.is_dir():
            raise ValueError(f"--profile {profile} is not a folder; Snakemake's profiles are folders")
        return [], ["--profile", str(profile.resolve())], signal.SIGINT
    gpus: list[str] = []
    if device == "cuda":
        if args.jobs is not None:
            raise ValueError("--jobs is for studies without GPU (device: cpu); with GPUs, one training runs on each")
        gpus = [gpu.strip() for gpu in args.gpus.split(",") if gpu.strip()] if args.gpus is not None else gpus_here()
        if not gpus and not args.dry_run:
            raise ValueError("no GPU was found; name them with --gpus, or set device: cpu in the study")
        if len(set(gpus)) < len(gpus):
            raise ValueError(f"--gpus {args.gpus} names a GPU twice")
    elif args.gpus is not None:
        raise ValueError(f"--gpus means nothing with device: {device}")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least one training must run at a time")
    at_once = len(gpus) or args.jobs or 1
    arguments = [
        "--executor",
        "local",
        "--profile",
        "none",
        "--cores",
        str(at_once),
        "--resources",
        f"training={at_once}",
    ]
    return gpus, arguments, signal.SIGTERM


def _run(plan: Any, arguments: list[str], stop_signal: int) -> int:
    from nnunet_cpr.batch.engine import Stopped, run_snakemake
    from nnunet_cpr.batch.report import write_study_report
    from nnunet_cpr.batch.runs import runs_of, states_of
    from nnunet_cpr.batch.slurm import wait_for_jobs
    from nnunet_cpr.batch.states_table import states_table
    from nnunet_cpr.batch.watch import Watch

    study = plan.study
    runs = runs_of(study)
    todo = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} trainings, {len(runs) - len(todo)} done before. Logs and report: {study.output}", flush=True)
    study.output.mkdir(parents=True, exist_ok=True)
    try:
        code = run_snakemake(plan, arguments, stop_signal, Watch(study, todo))
    except Stopped:
        wait_for_jobs(study.output)
        print(f"Stopped. To go on: {shlex.join(['nnunet-cpr', *sys.argv[1:]])}")
        return 130
    missing = [run for run in runs if not run.is_done()]
    if missing or code:
        print(states_table(states_of(study)))
        print(f"{len(missing)} of {len(runs)} trainings are not done; logs: {study.output / 'logs'}, "
              f"Snakemake's: {study.output / 'snakemake.log'}", file=sys.stderr)  # fmt: skip
    if len(study.trainers) < 2:
        print(f"There is no report: with {study.baseline} alone there is nothing to compare")
        return 1 if missing or code else 0
    try:
        print(write_study_report(study, shlex.join(["nnunet-cpr", *sys.argv[1:]])))
    except ValueError as error:
        print(f"No report: {error}", file=sys.stderr)
        return 1
    return 1 if missing or code else 0
