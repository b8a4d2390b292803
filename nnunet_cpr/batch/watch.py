"""What `nnunet-cpr batch` says while it runs: a line whenever a training or a prediction starts or ends."""

import time
from contextlib import suppress
from dataclasses import dataclass, field

from nnunet_cpr.batch.ensembles import Ensemble
from nnunet_cpr.batch.failures import failures
from nnunet_cpr.batch.locks import is_locked
from nnunet_cpr.batch.plan import job_name
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.trainings import StudyTraining, failure_note, read_record
from nnunet_cpr.files import read_json


@dataclass
class Watch:
    """Looks at the trainings and predictions that were not done when it was made."""

    study: Study
    runs: list[StudyTraining | Ensemble]
    running: set[str] = field(default_factory=set)
    ended: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        """Print what has changed since the last look."""
        failed = set()
        for run in self.runs:
            record = read_record(run.record(self.study.output))
            if record.get("outcome") == "failed":
                failed.add(f"{'train' if isinstance(run, StudyTraining) else 'predict'}/{job_name(run.key)}")
            if record and self.ended.get(run.key) != record["ended"]:
                self.ended[run.key] = record["ended"]
                self.running.discard(run.key)
                self._say(run, _outcome(run, record, self.study))
            elif not record and run.key not in self.running and is_locked(run.lock):
                self.running.add(run.key)
                self._say(run, "training" if isinstance(run, StudyTraining) else "predicting")
        notes = failures(self.study.output)
        for job, text in notes.items():
            if self.notes.get(job) != text and job not in failed:  # of those it was said above
                print(f"{time.strftime('%H:%M:%S')}  {job}: {text}", flush=True)
        self.notes = notes

    def _say(self, run: StudyTraining | Ensemble, text: str) -> None:
        part = f"fold {run.fold}" if isinstance(run, StudyTraining) else "test set"
        names = [run.dataset, *(run.setup if len(self.study.trained_setups) > 1 else []), run.run, part]
        print(f"{time.strftime('%H:%M:%S')}  {', '.join(names)}: {text}", flush=True)


def _outcome(run: StudyTraining | Ensemble, record: dict[str, object], study: Study) -> str:
    if record["outcome"] == "failed":
        return f"failed with {failure_note(record, run.log(study.output))}"
    if record["outcome"] == "stopped":
        return "stopped, can be resumed"
    minutes = (float(str(record["ended"])) - float(str(record["begun"]))) / 60
    text = f"done after {minutes:.1f} min"
    with suppress(OSError, ValueError, KeyError, TypeError):  # whoever changes results now does not stop the study
        summary = read_json(run.validation / "summary.json")
        text += f", foreground Dice {summary['foreground_mean']['Dice']:.4f}"
    return text
