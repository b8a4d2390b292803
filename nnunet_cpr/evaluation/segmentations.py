"""Files of segmentations: found in a folder, compared with their reference's header, read.

Formats are those that nnU-Net reads. NIfTI is read with nibabel, which notices truncated files and takes any affine, in
nnU-Net's order of axes; everything else with the reader that nnU-Net chooses for the ending. nnU-Net, SimpleITK and
nibabel are imported where they are used, because the command line imports this module.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_cpr.images import Geometry, check_permission, difference, itk_geometry, nifti_geometry

LARGEST_LABEL = 65535
"""Labels are uint16 in nnU-Net."""


def list_cases(folder: Path) -> dict[str, Path]:
    """Return the segmentations of a folder by case, that is by file name without the ending.

    Raises:
        ValueError: the folder is missing or empty, or two files are of the same case.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = _ending(path)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        case = path.name[: -len(ending)]
        if case in cases:
            raise ValueError(f"{cases[case]} and {path} are of the same case")
        cases[case] = path
    if not cases:
        raise ValueError(f"{folder} holds no segmentation ({', '.join(_readers())})")
    return cases


def check_geometry(reference: Path, prediction: Path) -> None:
    """Compare the headers of two segmentations.

    Raises:
        ValueError: size, spacing, origin or direction differ, or a file cannot be read.
    """
    differs = difference(_geometry(reference), _geometry(prediction))
    if differs and not _agree_in_simpleitk(reference, prediction):
        raise ValueError(f"{prediction} {differs} its reference {reference}")


def read_segmentation(path: Path) -> tuple[npt.NDArray[np.uint16], list[float]]:
    """Return the labels (z, y, x) of a segmentation and its spacing in mm in the same order, as nnU-Net has them.

    A plane image has one slice.

    Raises:
        ValueError: the file cannot be read, is truncated, or holds something else than labels.
    """
    with _errors_named(path):
        channels, spacing = _read_nifti(path) if _is_nifti(path) else _read_with_nnunet(path)
    if len(channels) != 1:
        raise ValueError(f"{path} has {len(channels)} channels; a segmentation has one")
    voxels = channels[0]
    with np.errstate(invalid="ignore"):
        labels = voxels.astype(np.uint16)
    if not np.array_equal(labels, voxels):
        wrong = voxels[labels != voxels].flat[0]
        raise ValueError(f"{path} holds {wrong:.8g}; labels are whole numbers from 0 to {LARGEST_LABEL}")
    if not all(0 < length < math.inf for length in spacing):
        raise ValueError(f"{path} has the spacing {spacing} (z, y, x); correct its header")
    return labels, spacing


def _read_nifti(path: Path) -> tuple[npt.NDArray[Any], list[float]]:
    """Return voxels (channel, z, y, x) and spacing (z, y, x) as nnU-Net's readers do, integers as they are."""
    import nibabel

    image: Any = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj)
    spacing = [float(length) for length in image.header.get_zooms()[2::-1]]
    if voxels.ndim == 2:
        voxels = voxels[:, :, None]
        spacing.insert(0, 999 * max(spacing))  # as nnU-Net has it; a single slice is not measured across
    if colours := voxels.dtype.names:
        voxels = np.stack([voxels[colour] for colour in colours], axis=-1)
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32, copy=False)  # nnU-Net's precision, in which scaled labels are whole numbers
    return voxels.reshape(*voxels.shape[:3], -1).T, spacing


def _read_with_nnunet(path: Path) -> tuple[npt.NDArray[Any], list[float]]:
    ending = _ending(path)
    if ending is None:
        raise ValueError(f"nnU-Net has no reader for {path.name}")
    channels, properties = _readers()[ending.lower()]().read_seg(str(path))
    return channels, [float(length) for length in properties["spacing"]]


def _geometry(path: Path) -> Geometry:
    with _errors_named(path):
        if not _is_nifti(path):
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
    except RuntimeError:
        return False


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory, or its header is damaged") from error
    except Exception as error:  # each library has its own
        check_permission(path)
        lines = str(error).split("\n")
        if "SimpleITK" in lines[0]:  # begins with a place in its source and ends with what happened
            lines = [line for line in lines if line.strip()][-1:]
        reason = " ".join(" ".join(lines).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read; it may be damaged or truncated ({reason})") from error


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _ending(path: Path) -> str | None:
    return next((path.name[-len(ending) :] for ending in _readers() if path.name.lower().endswith(ending)), None)


@cache
def _readers() -> dict[str, Callable[[], Any]]:
    """Return nnU-Net's reader by file ending."""
    from nnunetv2.imageio import reader_writer_registry as registry

    endings = [ending for reader in registry.LIST_OF_IO_CLASSES for ending in reader.supported_file_endings]
    return {
        ending: registry.determine_reader_writer_from_file_ending(ending, verbose=False)
        for ending in dict.fromkeys(endings)
    }
