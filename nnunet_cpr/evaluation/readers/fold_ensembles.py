"""What the folds of a training, as one ensemble, have predicted of a labeled test set, and what that belongs to.

The predictions lie beside the folds, in `test_set_folds_0_1_2_3_4`, with nnU-Net's summary.json. A record beside them
says by which checkpoints, and of which images and labels, so that those of an earlier training never pass for this
one's. As in provenance.py the content of files is compared, not their times. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nnunet_cpr.content_id import content_id
from nnunet_cpr.evaluation.readers.labeled_cases import labeled_cases
from nnunet_cpr.evaluation.readers.nnunet_results import Training, models, shortened, with_results
from nnunet_cpr.evaluation.readers.provenance import FINAL
from nnunet_cpr.files import read_json
from nnunet_cpr.nnunet.cascade import FIRST_STAGE, first_stage_folds

RECORD = "nnunet_cpr_test_set.json"
"""What the predictions belong to."""
_CHANGES = {
    "checkpoints": "trained again since: fold {}",
    "images": "the images of {} have changed",
    "labels": "the labels of {} have changed",
}
ADVICE = "run the study with test_set: true (nnunet-cpr batch)"


@dataclass(frozen=True)
class FoldEnsemble(Training):
    """The folds of one run as one model. `fold` names them all, as in 0_1_2, and `folder` holds the predictions."""

    advice: ClassVar[str] = ADVICE
    part: ClassVar[str] = "Ts"

    @property
    def folds(self) -> list[str]:
        """The folds that predict together."""
        return self.fold.split("_")

    @property
    def title(self) -> str:
        """Its name in sentences about a dataset."""
        return f"{self.run} folds {', '.join(self.folds)}"

    @property
    def validation(self) -> Path:
        """Where predictions and summary.json are."""
        return self.folder

    @property
    def labels_folder(self) -> Path | None:
        """The folder of the test set's labels, None if nnUNet_raw is not set."""
        return next(iter(self._in_raw("labels")), None)

    def unusable(self) -> str:
        """Say why there is no result of the last trainings and of this test set; empty if there is one."""
        path = self.folder / "summary.json"
        if not path.is_file():
            return str(path)
        changed = self.changed()
        return f"{path} ({changed})" if changed else ""

    def doubt(self) -> None:
        """Return None: whether the folds' own data has changed is said of each fold."""

    def changed(self) -> str:
        """Say what has changed since the test set was predicted and evaluated; empty if nothing is known to have."""
        return self._changed("checkpoints", "images", "labels")

    def changed_prediction(self) -> str:
        """Say what has changed since the test set was predicted, whatever its labels; empty if nothing is known to."""
        return self._changed("checkpoints", "images")

    def made_of(self) -> dict[str, dict[str, Any]]:
        """Return what tells checkpoints, images and labels apart from others, as it is recorded.

        What is not there is left out: a deleted checkpoint says nothing, and a test set may be on another machine.
        """
        model = self.folder.parent
        folds = {fold: model / f"fold_{fold}" for fold in self.folds}
        folds |= {f"{fold.name[5:]} of {FIRST_STAGE}": fold for fold in first_stage_folds(model)}
        checkpoints = {}
        for name, folder in folds.items():
            with suppress(FileNotFoundError):
                checkpoints[name] = content_id(folder / FINAL)
        labels = self.labels_folder
        cases = labeled_cases(labels.parent, self._description["file_ending"]) if labels else []
        return {
            "checkpoints": checkpoints,
            "images": {case.name: [content_id(path) for path in case.images] for case in cases},
            "labels": {case.name: content_id(case.label) for case in cases},
        }

    def _changed(self, *keys: str) -> str:
        recorded = self._record()
        if recorded is None:
            return f"{RECORD} is missing or damaged, so nobody knows which model predicted this"
        now = self.made_of()
        for key in keys:
            names = now[key].keys()
            if key != "checkpoints" and names:
                if more := sorted(names - recorded[key].keys()):
                    return f"the test set has new cases: {shortened(more)}"
                if less := sorted(recorded[key].keys() - names):
                    return f"the test set lacks cases: {shortened(less)}"
            if differing := [name for name in names if now[key][name] != recorded[key].get(name)]:
                return _CHANGES[key].format(shortened(differing))
        return ""

    def _record(self) -> Mapping[str, Any] | None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            content = read_json(self.folder / RECORD)
            if all(isinstance(content[key], dict) for key in ("checkpoints", "images", "labels")):
                return dict(content)
        return None

    def _reference_folders(self) -> list[Path]:
        return self._in_raw("labels")


def fold_names(folds: Iterable[str]) -> str:
    """Return the folds as one text, in their order and spelled as nnU-Net does: 0_1_2."""
    return "_".join(sorted(set(folds), key=lambda fold: (not fold.isdecimal(), fold.zfill(9))))


def ensemble_folder(model: Path, folds: Iterable[str]) -> Path:
    """Return where the folds' predictions of the test set are, below nnU-Net's folder of the model."""
    return model / f"test_set_folds_{fold_names(folds)}"  # as nnU-Net's crossval_results_folds_0_1_2


def find_ensembles(
    datasets: list[str],
    configuration: str,
    trainers: Mapping[str, list[str]],
    plans: str,
    folds: list[str],
    skip_missing: bool = False,
) -> tuple[list[FoldEnsemble], list[FoldEnsemble]]:
    """Return the ensembles with a result, and those without. The arguments are those of `find_trainings`.

    Raises:
        ValueError: a result is missing or of earlier trainings (unless `skip_missing`); names all that are.
    """
    found = [
        FoldEnsemble(dataset, trainer, run, fold_names(folds), ensemble_folder(model, folds))
        for dataset, trainer, run, (model,) in models(datasets, configuration, trainers, plans)
    ]
    return with_results(found, skip_missing, "fold ensembles have no result of the test set", ADVICE)
