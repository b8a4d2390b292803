"""The labeled cases of a test set in nnU-Net's raw data: imagesTs/CASE_0000.nii.gz ... and labelsTs/CASE.nii.gz."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabeledCase:
    """A label and its image's channels, in their order."""

    name: str
    images: list[Path]
    label: Path


def labeled_cases(dataset: Path, ending: str) -> list[LabeledCase]:
    """Return every case with a label in the folder of a raw dataset; images may be missing."""
    images = images_by_case(dataset / "imagesTs", ending)
    return [
        LabeledCase(name, images.get(name, []), label)
        for name, label in labels_by_case(dataset / "labelsTs", ending).items()
    ]


def images_by_case(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Return the channels of each case, empty if there is no such folder. Other files are left out."""
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def labels_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """Return the label of each case, empty if there is no such folder. Other files are left out."""
    return {path.name.removesuffix(ending): path for path in sorted(folder.glob("*")) if path.name.endswith(ending)}
