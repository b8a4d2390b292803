"""Files of segmentations: found in a folder, compared with their reference's header, read.

Formats are those that nnU-Net reads. NIfTI is read with nibabel, which notices truncated files and takes any affine, in
nnU-Net's order of axes and in SimpleITK's unit, mm; everything else with nnU-Net's reader. SimpleITK and nibabel are
imported where they are used, because the command line imports this module.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_cpr.evaluation.readers import nnunet_readers as readers
from nnunet_cpr.evaluation.readers import spacings
from nnunet_cpr.images import (
    TOLERANCE,
    Geometry,
    UnsuitableFile,
    affine_geometry,
    difference,
    itk_geometry,
    nifti_geometry,
    nifti_unit,
    nifti_voxels,
    states_unit,
)
from nnunet_cpr.labels import LARGEST_LABEL


@dataclass(frozen=True)
class Pair:
    """The labels (z, y, x) of a reference and of its prediction."""

    reference: npt.NDArray[np.uint16]
    prediction: npt.NDArray[np.uint16]
    spacing: list[float] | None
    """(z, y, x) in mm; None where nothing says it."""

    def without_border(self) -> "Pair":
        """Return both within the smallest box that holds every label of either.

        They are copies, so that the whole volumes need no memory any more.
        """
        occupied = [np.zeros(size, dtype=bool) for size in self.reference.shape]
        for number, planes in enumerate(
            zip(self.reference, self.prediction, strict=True)
        ):  # one by one, for the memory
            plane = (planes[0] != 0) | (planes[1] != 0)
            occupied[0][number] = plane.any()
            occupied[1] |= plane.any(axis=1)
            occupied[2] |= plane.any(axis=0)
        found = [np.flatnonzero(axis) for axis in occupied]
        box = tuple(slice(int(axis[0]), int(axis[-1]) + 1) if len(axis) else slice(0, 1) for axis in found)
        return Pair(self.reference[box].copy(), self.prediction[box].copy(), self.spacing)


def list_cases(folder: Path) -> dict[str, Path]:
    """Return the segmentations of a folder by case, that is by file name without the ending.

    Hidden files are left out; :func:`hidden_cases` names them.

    Raises:
        ValueError: the folder is missing or empty, two files are of the same case, or one is a link to nothing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder{dangling(folder)}")
    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = readers.ending_of(path)
        if ending is None or path.name.startswith("."):
            continue
        if not path.is_file():
            what = dangling(path) or " is a folder with the name of a segmentation; rename it or remove it"
            raise ValueError(f"{path}{what}")
        case = path.name[: -len(ending)]
        if case in cases:
            raise ValueError(f"{cases[case]} and {path} are of the same case")
        cases[case] = path
    if not cases:
        hidden = ", ".join(path.name for path in hidden_cases(folder)[:1])
        more = f"; files such as {hidden} are left out, because their names begin with a dot" if hidden else ""
        raise ValueError(f"{folder} holds no segmentation ({', '.join(readers.endings())}){more}")
    return cases


def hidden_cases(folder: Path) -> list[Path]:
    """Return what a folder has of segmentations with names that begin with a dot, but for those macOS makes (._*)."""
    return [
        path
        for path in sorted(folder.glob(".*"))
        if readers.ending_of(path) not in (None, path.name) and not path.name.startswith("._") and path.is_file()
    ]


def dangling(path: Path) -> str:
    """Say, after a path's name, that it is a link whose file is missing; empty for anything else."""
    if not path.is_symlink() or path.exists():
        return ""
    target = os.readlink(path)
    return f" is a link to {target}, which is missing; fetch that file (git annex get, dvc pull) or remove the link"


def check_geometry(reference: Path, prediction: Path) -> None:
    """Compare the headers of two segmentations, where both formats say where an image lies.

    Raises:
        ValueError: size, spacing, origin or direction differ, or a file cannot be read.
    """
    if not (readers.knows_place(reference) and readers.knows_place(prediction)):
        return
    first, second = _geometry(reference), _geometry(prediction)
    differs = difference(first, second)
    if (
        differs
        # Not asked about what it cannot agree on: ITK prints its own complaint about a size of 0.
        and not (math.prod(first.size) == math.prod(second.size) and _agree_in_simpleitk(reference, prediction))
        and not _agree_as_nibabel_writes(reference, prediction)
    ):
        raise ValueError(f"{prediction} {differs} its reference {reference}")


def read_pair(reference: Path, prediction: Path, reader: str | None = None, files: Sequence[Path] = ()) -> Pair:
    """Read a reference and its prediction, which must have the same size and lie at the same place.

    `reader` is the name of nnU-Net's for the dataset, `files` are where the spacing of TIFF volumes may lie.

    Raises:
        ValueError: they do not fit each other, cannot be read, or hold something else than labels.
    """
    check_geometry(reference, prediction)
    truth, spacing = read_segmentation(reference, reader)
    labels, other = read_segmentation(prediction, reader)
    if labels.shape != truth.shape:
        raise ValueError(
            f"{prediction} has the size {labels.shape[::-1]}, not the {truth.shape[::-1]} of its reference {reference}"
        )
    if not readers.knows_place(reference):
        known = spacings.reference_spacing(reference, prediction, reader, files)
        if known and other and not np.allclose(other, known, rtol=TOLERANCE, atol=0):
            raise ValueError(f"{prediction} has the spacing {other} (z, y, x), not the {known} of {reference}")
        spacing = known or other
    return Pair(truth, labels, spacing)


def read_segmentation(path: Path, reader: str | None = None) -> tuple[npt.NDArray[np.uint16], list[float] | None]:
    """Return the labels (z, y, x) of a segmentation and its spacing in mm in the same order, as nnU-Net has them.

    A plane image has one slice. The spacing is None where the format has none.

    Raises:
        ValueError: the file cannot be read, is truncated, or holds something else than labels.
    """
    spacing: list[float] | None
    with readers.errors_named(path):
        if readers.nibabel_reads(path, reader):
            channels, spacing = _read_nifti(path)
        else:
            read = readers.read_voxels(path, reader)
            channels, spacing = read.channels, read.spacing if read.in_file else None
    if len(channels) != 1:
        advice = '; for a volume, write "overwrite_image_reader_writer": "Tiff3DIO" to dataset.json'
        advice = advice if readers.is_tiff(path) else ""
        raise ValueError(f"{path} has {len(channels)} channels; a segmentation has one{advice}")
    voxels = channels[0]
    if np.iscomplexobj(voxels):
        raise ValueError(f"{path} holds complex numbers; labels are whole numbers from 0 to {LARGEST_LABEL}")
    with np.errstate(invalid="ignore"):
        labels = voxels.astype(np.uint16)
    if not np.array_equal(labels, voxels):
        wrong = voxels[labels != voxels].flat[0]
        raise ValueError(f"{path} holds {wrong:.8g}; labels are whole numbers from 0 to {LARGEST_LABEL}")
    if spacing is not None and not all(0 < length < math.inf for length in spacing):
        raise ValueError(f"{path} has the spacing {spacing} (z, y, x); correct its header")
    return labels, spacing


def _read_nifti(path: Path) -> tuple[npt.NDArray[Any], list[float]]:
    """Return voxels (channel, z, y, x) and spacing (z, y, x) as nnU-Net's readers do, integers as they are."""
    import nibabel

    image: Any = nibabel.load(path)
    voxels = nifti_voxels(image)
    unit = nifti_unit(image)
    spacing = [float(length) * unit for length in image.header.get_zooms()[2::-1]]
    if voxels.ndim == 2:
        voxels = voxels[:, :, None]
        spacing.insert(0, 999 * max(spacing))  # as nnU-Net has it; a single slice is not measured across
    if colors := voxels.dtype.names:
        voxels = np.stack([voxels[color] for color in colors], axis=-1)
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32, copy=False)  # nnU-Net's precision, in which scaled labels are whole numbers
    return voxels.reshape(*voxels.shape[:3], -1).T, spacing


def _geometry(path: Path) -> Geometry:
    with readers.errors_named(path):
        if not readers.is_nifti(path):
            return itk_geometry(path)
        import nibabel

        return nifti_geometry(nibabel.load(path))


def _agree_in_simpleitk(reference: Path, prediction: Path) -> bool:
    """Tell whether SimpleITK, with which nnU-Net writes most predictions, finds both at the same place.

    That matters where a NIfTI header has a sform with shears besides its qform, or neither: SimpleITK takes another
    placement than nibabel then, and gives it to the prediction.
    """
    try:
        return not difference(itk_geometry(reference), itk_geometry(prediction))
    except (RuntimeError, UnsuitableFile):
        return False


def _agree_as_nibabel_writes(reference: Path, prediction: Path) -> bool:
    """Tell whether the prediction has its reference's affine and no unit.

    nnU-Net's readers that use nibabel write no more than that, so the unit is lost, and the spacing where the reference
    has another one than its affine says.
    """
    if not (readers.is_nifti(reference) and readers.is_nifti(prediction)):
        return False
    import nibabel

    images: list[Any] = [nibabel.load(path) for path in (reference, prediction)]
    return not states_unit(images[1]) and not difference(*map(affine_geometry, images))
