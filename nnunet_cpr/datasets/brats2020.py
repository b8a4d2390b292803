"""BraTS 2020: brain tumors in four MR sequences, trained by regions as nnU-Net's conversion of BraTS 2021 does."""

import os
from pathlib import Path

from nnunet_cpr.datasets.case_files import Case
from nnunet_cpr.datasets.challenge import ChallengeDataset, first_folder

NUMBER = 82  # as in nnU-Net's first version
VALUES = {0: 0, 1: 2, 2: 1, 4: 3}
"""Necrosis 1, edema 2 and enhancing tumor 4, in nnU-Net's order: the larger region has the lower value."""
LABELS = {"background": 0, "whole tumor": (1, 2, 3), "tumor core": (2, 3), "enhancing tumor": (3,)}
CHANNELS = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "Flair"}
FOLDER, TEST_FOLDER = "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"
PUBLISHED_TESTS = 125
"""The challenge's validation cases. Their labels are not public, so they are nnU-Net's test images."""
MISNAMED = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}
"""Cases whose segmentation is called otherwise on the common mirror."""


def read(source: Path, number: int | None = None) -> ChallengeDataset:
    """Find the cases below `source`: the folder with their folders, or one or two above it as on the mirrors.

    The validation cases are found in `source`, too, or beside the folder with the training cases.
    """
    folder = first_folder(
        source,
        ("", FOLDER, f"BraTS2020_TrainingData/{FOLDER}"),
        "BraTS20_Training_*",
        f"{FOLDER}/BraTS20_Training_NNN",
    )
    # The official files are compressed, those of the mirror are not. nnU-Net wants one ending for images and labels.
    compressed = any(folder.glob("*/*_t1.nii.gz"))
    ending = ".nii.gz" if compressed else ".nii"
    test_folder = _test_folder(folder)
    test_cases = [_case(path, ending, labeled=False) for path in _case_folders(test_folder, "Validation")]
    notes = []
    if test_folder and len(test_cases) != PUBLISHED_TESTS:
        notes.append(f"{len(test_cases)} validation cases found in {test_folder}, {PUBLISHED_TESTS} were published")
    return ChallengeDataset(
        nnunet_name=f"Dataset{NUMBER if number is None else number:03d}_BraTS2020",
        published=369,
        cases=[_case(path, ending, labeled=True) for path in _case_folders(folder, "Training")],
        test_cases=test_cases,
        channel_names=tuple(CHANNELS.values()),
        labels=LABELS,
        values=VALUES,
        ending=ending,
        notes=notes,
        details={
            "regions_class_order": (1, 2, 3),
            "license": "see https://www.med.upenn.edu/cbica/brats2020/data.html",
            "reference": "https://www.med.upenn.edu/cbica/brats2020/data.html",
            "description": "Multimodal Brain Tumor Segmentation Challenge 2020; imagesTs are its validation cases",
        },
    )


def _test_folder(training: Path) -> Path | None:
    """Return the folder of the validation cases: beside that of the training cases or, on the mirrors, its parent."""
    above = Path(os.path.abspath(training)).parents
    folders = (folder / inner / TEST_FOLDER for folder in above[:2] for inner in ("", "BraTS2020_ValidationData"))
    return next((path for path in folders if path.is_dir()), None)


def _case_folders(folder: Path | None, part: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"BraTS20_{part}_*") if path.is_dir()) if folder else []


def _case(folder: Path, ending: str, labeled: bool) -> Case:
    name = folder.name
    label = folder / f"{name}_seg{ending}"
    if not label.is_file() and name in MISNAMED:
        label = folder / f"{MISNAMED[name]}{ending}"
    channels = tuple(folder / f"{name}_{channel}{ending}" for channel in CHANNELS)
    if missing := [path.name for path in (*channels, *([label] if labeled else [])) if not path.is_file()]:
        raise ValueError(f"{folder}: no {', '.join(missing)}; add what is missing or remove the case")
    return Case(name, channels, label if labeled else None)
