"""Small trees in the layouts in which the challenges publish their data, for the tests to convert and to spoil."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_cpr.cli import main

AFFINE = np.array([[-0.8, 0, 0, 90.0], [0, 0.8, 0, -70.5], [0, 0, 3.0, -40.25], [0, 0, 0, 1]])
BRATS_CHANNELS = ("t1", "t1ce", "t2", "flair")
Shape = tuple[int, int, int]


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def image(shape: Shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 1200, shape, dtype=np.int16)


def label(shape: Shape, values: tuple[int, ...]) -> np.ndarray:
    """A label with a block of each value, none symmetric, so that a flip or a permutation would show."""
    array = np.zeros(shape, dtype=np.uint8)
    for index, value in enumerate(values):
        array[1 + index % 4 * 3 : 4 + index % 4 * 3, 2 + index // 4 * 3 : 5 + index // 4 * 3, 1 : 3 + index % 3] = value
    return array


def btcv(folder: Path, numbers: tuple[int, ...] = (1, 2, 3, 21, 40), shape: Shape = (17, 15, 9)) -> Path:
    training = folder / "RawData" / "Training"
    for number in numbers:
        size = (shape[0] + number % 3, shape[1], shape[2] + number % 2)
        write(training / "img" / f"img{number:04d}.nii.gz", image(size, number))
        write(training / "label" / f"label{number:04d}.nii.gz", label(size, tuple(range(1, 14))))
    write(folder / "RawData" / "Testing" / "img" / "img0061.nii.gz", image(shape, 61))
    return folder


def brats(
    folder: Path, ending: str = ".nii", numbers: tuple[int, ...] = (1, 2, 3, 4, 355), shape: Shape = (17, 15, 9)
) -> Path:
    for number in numbers:
        name = f"BraTS20_Training_{number:03d}"
        case = folder / "MICCAI_BraTS2020_TrainingData" / name
        for seed, channel in enumerate(BRATS_CHANNELS):
            write(case / f"{name}_{channel}{ending}", abs(image(shape, 10 * number + seed)))
        odd = number == 355 and ending == ".nii"
        write(case / f"{'W39_1998.09.19_Segm' if odd else name + '_seg'}{ending}", label(shape, (1, 2, 4, 1)))
    (folder / "MICCAI_BraTS2020_TrainingData" / "survival_info.csv").write_text("Brats20ID,Age\n")
    (folder / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_notes.txt").write_text("no case\n")
    return folder


def brats_validation(
    folder: Path, ending: str = ".nii", numbers: tuple[int, ...] = (1, 2), shape: Shape = (17, 15, 9)
) -> Path:
    """The cases without labels, in a folder of this place; returns its folder MICCAI_BraTS2020_ValidationData."""
    for number in numbers:
        name = f"BraTS20_Validation_{number:03d}"
        for seed, channel in enumerate(BRATS_CHANNELS):
            path = folder / "MICCAI_BraTS2020_ValidationData" / name / f"{name}_{channel}{ending}"
            write(path, abs(image(shape, 1000 + 10 * number + seed)))
    (folder / "MICCAI_BraTS2020_ValidationData" / "survival_evaluation.csv").write_text("BraTS20ID,Age\n")
    return folder / "MICCAI_BraTS2020_ValidationData"


def amos(folder: Path) -> Path:
    for part, numbers in (("Tr", (1, 4, 410, 507)), ("Va", (8, 409, 600)), ("Ts", (2, 500, 596))):
        for number in numbers:
            shape = (13 + number % 3, 11, 7)
            write(folder / f"images{part}" / f"amos_{number:04d}.nii.gz", image(shape, number))
            if part != "Ts":
                write(folder / f"labels{part}" / f"amos_{number:04d}.nii.gz", label(shape, (1, 5, 15)))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "8": "arota"}}))
    return folder


def swapped(which: str) -> np.ndarray:
    """The trees' affine with another spacing, origin or direction."""
    affine: np.ndarray = AFFINE.copy()
    if which == "spacing":
        affine[[0, 2], [0, 2]] = -3.0, 0.8
    elif which == "origin":
        affine[0, 3] = -90
    else:
        affine[0, 0] = 0.8
    return affine


def read(path: Path) -> np.ndarray:
    file: Any = nib.load(path)
    return np.array(np.asanyarray(file.dataobj))  # a copy: nibabel maps .nii files, and the test may overwrite this one


def tree(folder: Path) -> list[str]:
    """Every file below the folder, hidden ones, too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run `nnunet-cpr convert`, which must end with one line and exit code 2, and return the line."""
    assert main(["convert", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]
