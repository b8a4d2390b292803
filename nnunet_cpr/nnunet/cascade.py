"""nnU-Net's cascade: 3d_cascade_fullres gets, as further input, what 3d_lowres of the same trainer predicts.

The prediction of a training case comes from the fold that validates it, so all folds of 3d_lowres are trained first.
nnU-Net writes it after the validation, if the data of the second stage is there by then. Of other cases 3d_lowres
predicts a segmentation as usual, which nnUNetv2_predict is given. Imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path

from nnunet_cpr.nnunet.setup import Setup

CASCADE = "3d_cascade_fullres"
FIRST_STAGE = "3d_lowres"
ENDINGS = (".b2nd", ".npz")
"""In which nnU-Net's dataset classes save predictions."""


def first_stage(setup: Setup) -> Setup | None:
    """Return what has to be trained before, None for all but the cascade."""
    return Setup(setup.plans, FIRST_STAGE) if setup.configuration == CASCADE else None


def with_first_stages(setups: Sequence[Setup]) -> list[Setup]:
    """Return the setups, each cascade after its first stage."""
    ordered = [one for setup in setups for one in (first_stage(setup), setup) if one is not None]
    return list(dict.fromkeys(ordered))


def first_stage_folds(model: Path) -> list[Path]:
    """Return the folds of the first stage of the model in that folder, none unless it is a cascade."""
    if not model.name.endswith(f"__{CASCADE}"):
        return []
    first = model.with_name(f"{model.name.removesuffix(CASCADE)}{FIRST_STAGE}")
    return sorted(first.glob("fold_[0-9]*"))


def lacks_predictions(model: Path, cases: Sequence[str]) -> bool:
    """Say whether the model of the first stage has not predicted all of the cases for the second."""
    folder = model / "predicted_next_stage" / CASCADE
    return not all(any((folder / f"{case}{ending}").is_file() for ending in ENDINGS) for case in cases)
