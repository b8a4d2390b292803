"""The trainings of a study and how far each is, read from nnU-Net's own folders. Imports no torch."""

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_cpr.batch.epoch_times import EpochTimes
from nnunet_cpr.batch.failures import one_line
from nnunet_cpr.batch.job_files import JobFiles
from nnunet_cpr.batch.locks import is_locked
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.study_data import number_of_folds
from nnunet_cpr.evaluation.readers.nnunet_results import Training
from nnunet_cpr.evaluation.readers.provenance import newer_training
from nnunet_cpr.evaluation.readers.starting_weights import other_weights
from nnunet_cpr.files import read_json
from nnunet_cpr.nnunet.cascade import first_stage, lacks_predictions
from nnunet_cpr.nnunet.paths import needed_folder
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.training.settings import NNUNET_EPOCHS, parse

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


@dataclass(frozen=True)
class StudyTraining(JobFiles, Training):
    """One training of a study: a fold of a dataset with one trainer, seed, plans and configuration."""

    setup: Setup
    weights_sha256: str | None = ""
    """Of the weights that it is to begin with, as :class:`Study` has it."""
    feeds_cascade: bool = False
    """Whether the second stage of a cascade learns from its predictions."""
    compared: bool = True
    """Whether the study asks for it; False if it is only trained because it feeds a cascade."""

    @property
    def epochs(self) -> int:
        """The number of epochs that the trainer's name stands for."""
        name = self.run
        with suppress(ValueError):
            settings = parse(name)
            if settings.epochs:
                return settings.epochs
            name = settings.base or name
        named = re.search(r"_(\d+)epochs?(_|$)", name)
        return int(named[1]) if named else NNUNET_EPOCHS

    def is_done(self) -> bool:
        """Whether nnU-Net has validated it, and the result is of the last training and what the study asks for."""
        return self._has_result() and not self.unusable() and not self.outdated() and not self.owes_predictions()

    def owes_predictions(self) -> bool:
        """Whether it has a result, but not the predictions that the second stage of a cascade needs."""
        return self.feeds_cascade and self._has_result() and lacks_predictions(self.folder.parent, self.validated())

    def outdated(self) -> str:
        """Say what has changed since it was trained; empty if nothing has, or nothing is kept of a training.

        Going on with it would mix both: nnU-Net would validate cases that it was trained with.
        """
        if not (self._has_result() or self.is_begun()):
            return ""
        doubt = self.doubt()
        if doubt and doubt.certain:
            return doubt.text
        return "" if self.weights_sha256 is None else other_weights(self.folder, self.weights_sha256)

    def is_begun(self) -> bool:
        """Whether there is a checkpoint."""
        return any((self.folder / name).is_file() for name in CHECKPOINTS)

    def _has_result(self) -> bool:
        try:
            content = read_json(self.validation / "summary.json")
            return bool(content["metric_per_case"])
        except (OSError, ValueError, KeyError, TypeError):
            return False


@dataclass(frozen=True)
class State:
    """How far a training is, as `--json` prints it."""

    dataset: str
    plans: str
    configuration: str
    trainer: str
    """The name shown."""
    run: str
    """nnU-Net's name of the trainer."""
    fold: str
    state: str
    """done, running, resumable, failed (the last attempt), missing, or outdated (another split, data, weights...)."""
    epochs_done: int
    epochs: int
    hours_left: float | None
    """Of training; None while no epoch of this dataset was timed."""
    note: str = ""
    """Why it failed, and where its log is; or what is wrong with its result."""


def trainings_of(study: Study) -> list[StudyTraining]:
    """Return every training of the study, fold by fold, those that a cascade builds on before it."""
    found: dict[Path, StudyTraining] = {}
    for dataset in study.datasets:
        for setup in study.setups:
            if first := first_stage(setup):
                folds = [str(fold) for fold in range(number_of_folds(dataset))]
                for run in _runs(study, dataset, first, folds):
                    compared = first in study.setups and run.fold in study.folds
                    found[run.folder] = replace(run, feeds_cascade=True, compared=compared)
            for run in _runs(study, dataset, setup, study.folds):
                found.setdefault(run.folder, run)
    return list(found.values())


def first_stages_of(run: StudyTraining, runs: list[StudyTraining]) -> list[StudyTraining]:
    """Return the trainings among `runs` that have to be done before this one."""
    first = (run.dataset, run.run, first_stage(run.setup))
    return [other for other in runs if other.feeds_cascade and (other.dataset, other.run, other.setup) == first]


def _runs(study: Study, dataset: str, setup: Setup, folds: list[str]) -> list[StudyTraining]:
    root = needed_folder("nnUNet_results").resolve() / dataset
    return [
        StudyTraining(
            dataset, trainer, name, fold, root / f"{name}__{setup.name}" / f"fold_{fold}", setup, study.weights_sha256
        )
        for fold in folds
        for trainer, names in study.trainers.items()
        for name in names
    ]


def states_of(study: Study) -> list[State]:
    """Look at every training of the study."""
    times = EpochTimes()
    return [_state(run, study, times) for run in trainings_of(study)]


def as_dicts(states: list[State]) -> list[dict[str, Any]]:
    """Return the states for JSON."""
    return [asdict(state) for state in states]


def _state(run: StudyTraining, study: Study, times: EpochTimes) -> State:
    note, begun = "", run.is_begun()
    if is_locked(run.lock):
        state = "running"
    elif outdated := run.outdated():
        state, note = "outdated", f"{outdated}; undo that, or rename or remove {run.folder} to train it again"
    elif run.is_done():
        state, doubt = "done", run.doubt()
        note = f"caution: {doubt.text}" if doubt else ""
    else:
        state = "resumable" if begun else "missing"
        record = read_record(run.record(study.output))
        if run.owes_predictions():
            note = "validated, but its predictions for the cascade are missing"
        if (run.validation / "summary.json").is_file():
            note = newer_training(run.folder) or note
        if record.get("outcome") == "failed":
            state, note = "failed", failure_note(record, run.log(study.output))
    finished = (run.folder / CHECKPOINTS[0]).is_file() and not (run.folder / CHECKPOINTS[1]).is_file()
    trained = state == "done" or finished
    epochs_done = (
        run.epochs if trained else min(len(times.of(run.folder)), run.epochs) if begun or state == "running" else 0
    )
    left = run.epochs - epochs_done
    seconds = times.expected(run.folder) if left else 0.0
    hours = None if seconds is None else left * seconds / 3600
    return State(run.dataset, *run.setup, run.trainer, run.run, run.fold, state, epochs_done, run.epochs, hours, note)


def failure_note(record: dict[str, Any], log: Path) -> str:
    """Say how the last attempt failed."""
    reason = record.get("reason")
    return f"exit code {record.get('exit_code')}, see {log}" + (f" ({one_line(str(reason))})" if reason else "")


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the last attempt, empty if there is none."""
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError):
        return {}
