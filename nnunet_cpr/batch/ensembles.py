"""The fold ensembles of a study and how far their predictions of the test sets are. Imports no torch."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_cpr.batch.job_files import JobFiles
from nnunet_cpr.batch.locks import is_locked
from nnunet_cpr.batch.runs import Run, failure_note, read_record, runs_of
from nnunet_cpr.batch.setup import Setup
from nnunet_cpr.batch.study import Study
from nnunet_cpr.evaluation.fold_ensembles import FoldEnsemble, ensemble_folder, fold_names
from nnunet_cpr.files import read_json


@dataclass(frozen=True)
class Ensemble(JobFiles, FoldEnsemble):
    """All folds of one trainer, seed, plans and configuration on one dataset, which predict its test set together."""

    runs: tuple[Run, ...] = ()

    @property
    def setup(self) -> Setup:
        """The plans and the configuration of its folds."""
        return self.runs[0].setup

    def is_done(self) -> bool:
        """Whether the test set is predicted and evaluated, by these folds as they are trained now."""
        return not self.waits_for() and self.has_result() and not self.changed()

    def waits_for(self) -> list[Run]:
        """Return the folds whose training is not done."""
        return [run for run in self.runs if not run.is_done()]

    def has_result(self) -> bool:
        """Whether there is a whole summary.json, of whatever model."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return bool(read_json(self.folder / "summary.json")["metric_per_case"])
        return False


@dataclass(frozen=True)
class PredictionState:
    """How far the prediction of a test set is, as `--json` prints it."""

    dataset: str
    plans: str
    configuration: str
    trainer: str
    """The name shown."""
    run: str
    """nnU-Net's name of the trainer."""
    fold: str
    """Always "test set"."""
    state: str
    """predicted, running, failed (the last attempt), missing, or outdated (by other trainings, or of other files)."""
    note: str = ""


def ensembles_of(study: Study) -> list[Ensemble]:
    """Return every fold ensemble of the study, none without `test_set: true`."""
    if not study.test_set:
        return []
    models: dict[Path, list[Run]] = {}
    for run in runs_of(study):
        models.setdefault(run.folder.parent, []).append(run)
    return [_ensemble(model, runs) for model, runs in models.items()]


def prediction_states(study: Study) -> list[PredictionState]:
    """Look at every prediction of the study."""
    states = []
    for ensemble in ensembles_of(study):
        state, note = _state(ensemble, study)
        names = ensemble.dataset, *ensemble.setup, ensemble.trainer, ensemble.run
        states.append(PredictionState(*names, "test set", state, note))
    return states


def _ensemble(model: Path, runs: list[Run]) -> Ensemble:
    first, folds = runs[0], [run.fold for run in runs]
    folder = ensemble_folder(model, folds)
    return Ensemble(first.dataset, first.trainer, first.run, fold_names(folds), folder, tuple(runs))


def _state(ensemble: Ensemble, study: Study) -> tuple[str, str]:
    record = read_record(ensemble.record(study.output))
    if is_locked(ensemble.lock):
        return "running", ""
    if waits := ensemble.waits_for():
        return "missing", f"after fold {', '.join(run.fold for run in waits)}"
    if ensemble.has_result():
        changed = ensemble.changed()
        return ("outdated", f"{changed}; to be predicted again") if changed else ("predicted", "")
    if record.get("outcome") == "failed":
        return "failed", failure_note(record, ensemble.log(study.output))
    return "missing", ""
