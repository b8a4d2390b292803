"""What the controller hands to Snakemake and its jobs: one JSON file of the study, written before anything starts."""

import hashlib
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunet_cpr.batch.ensembles import Ensemble, ensembles_of
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.trainings import StudyTraining, first_stages_of, trainings_of
from nnunet_cpr.evaluation.report.layout import REPORT
from nnunet_cpr.files import read_json, write_json
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.output_folder import check_folder

FILE = "study.json"
OTHERS = ("snakemake.log", "markers", "records", "logs", "report")
"""What else a study's folder holds."""


@dataclass(frozen=True)
class Plan:
    """A study, and what its jobs share: the GPUs (empty: a CPU, or what the cluster gives) or this machine's cores."""

    study: Study
    gpus: list[str]
    sbatch: dict[str, list[str]] = field(default_factory=dict)
    """sbatch's options for each kind of job, on a SLURM cluster."""
    threads: int | None = None
    """Of each training on this machine's CPU."""

    @property
    def file(self) -> Path:
        """Where it is kept: Snakemake and every job read it there."""
        return self.study.output / FILE

    def write(self) -> None:
        """Write it for Snakemake and the jobs."""
        study = asdict(self.study) | {"path": str(self.study.path), "output": str(self.study.output)}
        every = trainings_of(self.study)
        # What is outdated is left as it is, and what builds on it; the user decides.
        outdated = {run for run in every if run.outdated()}
        after = {run: first_stages_of(run, every) for run in every if run not in outdated}
        runs = {
            job_name(run.key): {
                "dataset": job_name(run.dataset),
                "after": [job_name(first.key) for first in firsts],
                "compared": run.compared,
            }
            for run, firsts in after.items()
            if not outdated & set(firsts)
        }
        ensembles: dict[str, list[str]] = {}
        for ensemble in ensembles_of(self.study):
            before = [ensemble.first] if ensemble.first else []
            if all(job_name(run.key) in runs for run in ensemble.runs):
                ensembles[job_name(ensemble.key)] = [
                    *(f"{job_name(run.key)}.trained" for run in ensemble.runs),
                    *(f"{job_name(first.key)}.predicted" for first in before),
                ]
        write_json(self.file, {"study": study, "gpus": self.gpus, "sbatch": self.sbatch,
                               "threads": self.threads, "runs": runs, "ensembles": ensembles})  # fmt: skip


def job_name(name: str) -> str:
    """Return the name of a training or dataset for Snakemake and shells, to which none of its characters is special."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_.+/-]', '_', name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def report_folder(study: Study, setup: Setup) -> Path:
    """Return where the comparison of a setup's trainers is."""
    return study.output / "report" / (setup.name if len(study.setups) > 1 else "")


def check_output(study: Study) -> None:
    """Check that nothing of the user's would be written over in the study's folder. It may hold other files.

    Raises:
        ValueError: it does; names the file.
    """
    if os.path.lexists(study.output) and not study.output.is_dir():
        raise ValueError(f"{study.output} is not a folder; choose another output in {study.path}")
    plan = study.output / FILE
    advice = f"move it away, or choose another output in {study.path}"
    if os.path.lexists(plan):
        if not _is_plan(plan):
            raise ValueError(f"{plan} is not of an earlier call and would be written over; {advice}")
    elif taken := [name for name in OTHERS if os.path.lexists(study.output / name)]:
        raise ValueError(f"{study.output / taken[0]} is not of an earlier call, because there is no {FILE}; {advice}")
    if len(study.trainers) > 1:
        for setup in study.setups:
            check_folder(report_folder(study, setup), REPORT)


def _is_plan(file: Path) -> bool:
    try:
        return {"study", "gpus", "runs"} <= set(read_json(file))
    except (OSError, ValueError, TypeError):
        return False


def read_plan(file: Path) -> Plan:
    """Return what :meth:`Plan.write` wrote."""
    content = read_json(file)
    study = content["study"]
    paths = {"path": Path(study["path"]), "output": Path(study["output"])}
    return Plan(Study(**study | paths), content["gpus"], threads=content.get("threads"))


def find_run(plan: Plan, key: str) -> StudyTraining:
    """Return the training whose job has that name."""
    return next(run for run in trainings_of(plan.study) if job_name(run.key) == key)


def find_ensemble(plan: Plan, key: str) -> Ensemble:
    """Return the fold ensemble whose job has that name."""
    return next(ensemble for ensemble in ensembles_of(plan.study) if job_name(ensemble.key) == key)


def find_dataset(plan: Plan, key: str) -> str:
    """Return the dataset whose job has that name."""
    return next(dataset for dataset in plan.study.datasets if job_name(dataset) == key)
