"""nnU-Net's ensembles of two models over their cross-validations, as nnUNetv2_find_best_configuration makes them.

nnU-Net keeps the predictions of all folds in one folder, `ensembles/ensemble___MODEL___MODEL___0_1_2_3_4`. Here they
are split into folds by the first model's validation cases, so that they can be compared with single models.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from nnunet_cpr.evaluation.readers.nnunet_results import Training
from nnunet_cpr.evaluation.readers.provenance import LATE_SECONDS, Doubt, changed_since, newer_training
from nnunet_cpr.evaluation.readers.summary_json import Summary, read_summary

ADVICE = "make it with nnUNetv2_find_best_configuration, from trainings that were validated with --npz"


@dataclass(frozen=True)
class EnsembleFold(Training):
    """The cases of one fold, as two models have predicted them together. `folder` holds those of all folds."""

    members: tuple[Path, ...] = ()
    """The folders of the models."""
    advice: ClassVar[str] = ADVICE

    @property
    def model(self) -> Path:
        """Where dataset.json and plans.json are."""
        return self.folder

    @property
    def validation(self) -> Path:
        """Where predictions and summary.json are."""
        return self.folder

    def unusable(self) -> str:
        """Say why there is no result of the models as they are trained now; empty if there is one."""
        for path in (self.folder / "summary.json", self._member_folds[0] / "validation" / "summary.json"):
            if not path.is_file():
                return str(path)
        newer = {fold: newer_training(fold) for fold in self._member_folds}
        return next((f"{fold}: {why}" for fold, why in newer.items() if why), "")

    def doubt(self) -> Doubt | None:
        """Return what has changed since a model was trained, or since the ensemble was made."""
        path = self.folder / "summary.json"
        for fold in self._member_folds:
            result = fold / "validation" / "summary.json"
            with suppress(OSError):
                if result.stat().st_mtime > path.stat().st_mtime + LATE_SECONDS:
                    return Doubt(f"the ensemble {path} is older than {result}", certain=False)
        doubts = (changed_since(fold, self.dataset, self.fold, self.validated()) for fold in self._member_folds)
        return next(filter(None, doubts), None)

    def summary(self) -> Summary:
        """Return this fold's part of summary.json. Raises ValueError if that or the first model's is damaged."""
        of_fold = read_summary(self._member_folds[0] / "validation" / "summary.json").cases
        return super().summary().only(of_fold, self.advice)

    @cached_property
    def _member_folds(self) -> list[Path]:
        return [member / f"fold_{self.fold}" for member in self.members]


def ensemble_fold(
    dataset: str, trainer: str, run: str, fold: str, folds: list[str], members: list[Path]
) -> EnsembleFold:
    """Return a fold of the ensemble of these models, made of these folds or more; the newest if there are several."""
    root, names = members[0].parent / "ensembles", [member.name for member in members]
    made = []
    for path in root.glob("ensemble___*/summary.json"):
        _, *models, over = path.parent.name.split("___")
        if sorted(models) == sorted(names) and set(over.split("_")).issuperset(folds):
            made.append(path)
    expected = root / "___".join(["ensemble", *names, "_".join(folds)])
    folder = max(made, key=lambda path: path.stat().st_mtime).parent if made else expected
    return EnsembleFold(dataset, trainer, run, fold, folder, tuple(members))
