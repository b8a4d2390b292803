"""The fold ensembles of a study and how far their predictions of the test sets are. Imports no torch."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_cpr.batch.job_files import JobFiles
from nnunet_cpr.batch.locks import is_locked
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.trainings import StudyTraining, failure_note, first_stages_of, read_record, trainings_of
from nnunet_cpr.evaluation.readers.fold_ensembles import FoldEnsemble, ensemble_folder, fold_names
from nnunet_cpr.files import read_json
from nnunet_cpr.nnunet.setup import Setup


@dataclass(frozen=True)
class Ensemble(JobFiles, FoldEnsemble):
    """All folds of one trainer, seed, plans and configuration on one dataset, which predict its test set together."""

    runs: tuple[StudyTraining, ...] = ()
    first: "Ensemble | None" = None
    """Whose predictions it needs: the first stage of a cascade."""

    @property
    def setup(self) -> Setup:
        """The plans and the configuration of its folds."""
        return self.runs[0].setup

    def is_done(self) -> bool:
        """Whether the test set is predicted and evaluated, by these folds as they are trained now."""
        return not self.waits_for() and self.has_result() and not self.changed()

    def waits_for(self) -> list[StudyTraining]:
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
    every = trainings_of(study)
    models: dict[Path, list[StudyTraining]] = {}
    for run in every:
        if run.compared:
            models.setdefault(run.folder.parent, []).append(run)
    found: dict[Path, Ensemble] = {}
    for runs in models.values():
        ensemble = _ensemble(runs)
        if before := first_stages_of(runs[0], every):
            first = _ensemble(before)
            found.setdefault(first.folder, first)
            ensemble = replace(ensemble, first=first)
        found.setdefault(ensemble.folder, ensemble)
    return list(found.values())


def prediction_states(study: Study) -> list[PredictionState]:
    """Look at every prediction of the study."""
    states = []
    for ensemble in ensembles_of(study):
        state, note = _state(ensemble, study)
        names = ensemble.dataset, *ensemble.setup, ensemble.trainer, ensemble.run
        states.append(PredictionState(*names, "test set", state, note))
    return states


def _ensemble(runs: list[StudyTraining]) -> Ensemble:
    one, folds = runs[0], [run.fold for run in runs]
    folder = ensemble_folder(one.folder.parent, folds)
    return Ensemble(one.dataset, one.trainer, one.run, fold_names(folds), folder, tuple(runs))


def _state(ensemble: Ensemble, study: Study) -> tuple[str, str]:
    record = read_record(ensemble.record(study.output))
    if is_locked(ensemble.lock):
        return "running", ""
    if waits := ensemble.waits_for():
        return "missing", f"after fold {', '.join(run.fold for run in waits)}"
    if ensemble.first and not ensemble.first.is_done():
        return "missing", f"after that of {ensemble.first.setup.configuration}"
    if ensemble.has_result():
        changed = ensemble.changed()
        return ("outdated", f"{changed}; to be predicted again") if changed else ("predicted", "")
    if record.get("outcome") == "failed":
        return "failed", failure_note(record, ensemble.log(study.output))
    return "missing", ""
