"""The files of a case: segmentation, reference and image."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_cpr.evaluation.readers.segmentation_files import dangling
from nnunet_cpr.labels import Label


@dataclass(frozen=True)
class CaseFiles:
    """One case of one training or folder of predictions."""

    dataset: str
    trainer: str
    """The name shown."""
    run: str
    fold: int | str
    case: str
    reference: Path
    prediction: Path
    labels: dict[str, Label]
    """By name; a tuple is a region of several values."""
    reader: str | None = None
    """The name of nnU-Net's reader of these files, if it is known."""
    spacing_files: tuple[Path, ...] = ()
    """Where the spacing of a reference may be that is a TIFF volume; default: where nnU-Net has it."""
    images: tuple[Path, ...] = ()
    """Where the image may be."""
    ignore: int | None = None
    """The value of the ignore label."""

    def check(self) -> None:
        """Raise ValueError if a segmentation is missing."""
        for path in (self.reference, self.prediction):
            if not path.is_file():
                what = dangling(path) or " is missing"
                raise ValueError(f"{path}{what}; surface and lesion metrics need the segmentations themselves")


Locate = Callable[[str, str, str, str], CaseFiles]
"""Files of a case from dataset, run, fold and case."""


def image_beside(reference: Path, case: str) -> Path:
    """Return where nnU-Net's layout has the image of a reference: labelsTs/case.nii.gz, imagesTs/case_0000.nii.gz."""
    name = reference.parent.name
    ending = reference.name.removeprefix(case)
    return reference.parent.with_name(name.replace("labels", "images")) / f"{case}_0000{ending}"
