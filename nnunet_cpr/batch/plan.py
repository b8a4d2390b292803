"""What the controller hands to Snakemake and its jobs: one JSON file of the study, written before anything starts."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_cpr.batch.runs import Run, runs_of
from nnunet_cpr.batch.study import Study
from nnunet_cpr.files import read_json, write_json

FILE = "study.json"


@dataclass(frozen=True)
class Plan:
    """A study, the GPUs to share (empty: a CPU, or what the cluster gives) and how many trainings run at once."""

    study: Study
    gpus: list[str]

    @property
    def file(self) -> Path:
        """Where it is kept: Snakemake and every job read it there."""
        return self.study.output / FILE

    def write(self) -> None:
        """Write it for Snakemake and the jobs."""
        study = asdict(self.study) | {"path": str(self.study.path), "output": str(self.study.output)}
        runs = {run.key: run.dataset for run in runs_of(self.study)}
        write_json(self.file, {"study": study, "gpus": self.gpus, "datasets": self.study.datasets, "runs": runs})


def read_plan(file: Path) -> Plan:
    """Return what :meth:`Plan.write` wrote."""
    content = read_json(file)
    study = content["study"]
    return Plan(Study(**study | {"path": Path(study["path"]), "output": Path(study["output"])}), content["gpus"])


def find_run(plan: Plan, key: str) -> Run:
    """Return the training of that name."""
    return next(run for run in runs_of(plan.study) if run.key == key)
