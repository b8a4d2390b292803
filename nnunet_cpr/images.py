"""Where images lie in space, from their headers, and what differs between two of them.

SimpleITK is imported where it is used, because the command line imports what imports this module.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-3
"""Two images lie at the same place if no spacing, no coordinate of the origin and none of the step from voxel to voxel
differs by more than this share of the smallest spacing, nor by more than this many mm: far less than a voxel. Headers
hold float32, so what that rounds off a far origin is tolerated besides."""
_MOST_COMPRESSED = 1100
"""More than how many bytes gzip can pack into one: 1,032, plus the file's own header."""
_MM = {1: 1000.0, 3: 0.001}
"""Millimeters in NIfTI's units meter and micrometer. All others are read as mm, as SimpleITK reads them."""

Vector = npt.NDArray[np.float64]


class UnsuitableFile(ValueError):
    """A file that can be read, but not as what it is needed for. The message names it."""


@dataclass(frozen=True)
class Geometry:
    """Size in voxels, spacing (n,) and origin (3,) in mm, and direction (3, n), one column for each of n axes in space.

    The order of axes is x, y, z. Origin and direction point to the right, anterior and superior, as in NIfTI.
    """

    size: tuple[int, ...]
    spacing: Vector
    origin: Vector
    direction: Vector

    @property
    def steps(self) -> Vector:
        """The steps in mm to the next voxel, one column for each axis."""
        return self.direction * self.spacing


def nifti_geometry(image: Any) -> Geometry:
    """Return the geometry of an image of nibabel's, whose affine is that of the sform where the header has one.

    Any affine will do, also one with shears, which SimpleITK refuses. Lengths are in mm, as in SimpleITK.
    """
    axes = min(len(image.shape), 3)
    scale = nifti_unit(image)
    spacing = np.array(image.header.get_zooms()[:axes], dtype=float)
    direction = image.affine[:3, :axes] / spacing
    return Geometry(tuple(image.shape), spacing * scale, image.affine[:3, 3] * scale, direction)


def affine_geometry(image: Any) -> Geometry:
    """Return what the affine alone of an image of nibabel's says, in the header's own unit.

    That is all that nnU-Net's readers which use nibabel keep of a header.
    """
    columns = image.affine[:3, : min(len(image.shape), 3)]
    spacing = np.linalg.norm(columns, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Geometry(tuple(image.shape), spacing, image.affine[:3, 3], columns / spacing)


def nifti_unit(image: Any) -> float:
    """Return how many mm the unit of an image of nibabel's is."""
    code = int(image.header.get("xyzt_units", 0))
    return _MM.get(code & 7, 1.0)


def states_unit(image: Any) -> bool:
    """Tell whether the header of an image of nibabel's says which unit its lengths have."""
    return int(image.header.get("xyzt_units", 0)) & 7 in (1, 2, 3)


def nifti_voxels(image: Any) -> npt.NDArray[Any]:
    """Return the voxels of an image of nibabel's, read whole.

    Raises:
        ValueError: by its header it is larger than its file can hold. nibabel would take the memory before it notices.
    """
    holder = image.file_map["image"].filename
    if holder is not None:
        size = os.path.getsize(holder) * (_MOST_COMPRESSED if str(holder).endswith(".gz") else 1)
        needed = math.prod(image.shape) * image.get_data_dtype().itemsize
        if needed > size:
            raise ValueError(f"its header says {needed:,} bytes of voxels, which a file of its size cannot hold")
    return np.asanyarray(image.dataobj)


def zero_spacing(image: Any, path: Path) -> bool:
    """Tell whether the file of an image of nibabel's gives no spacing along an axis: 0 or NaN, for which 1 is read."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as file:
        stated = image.header_class.from_fileobj(file, check=False)["pixdim"][1:4]
    return any(size > 1 and not abs(length) > 0 for size, length in zip(image.shape[:3], stated, strict=False))


def check_itk_path(path: Path) -> None:
    """Raise UnsuitableFile for a path that is not UTF-8: SimpleITK, and nnU-Net with it, would abort the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UnsuitableFile(f"{path}: nnU-Net takes only paths in UTF-8; rename the file or folder") from None


def itk_header(path: Path) -> Any:
    """Return SimpleITK's reader with the header of a file.

    Raises:
        RuntimeError: SimpleITK cannot read it.
        UnsuitableFile: its path is not UTF-8.
    """
    import SimpleITK

    check_itk_path(path)

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it would write to the terminal
    reader: Any = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def itk_geometry(path: Path) -> Geometry:
    """Return the geometry of a file as SimpleITK reads it; RuntimeError if it cannot.

    Of a NIfTI header with two different placements, SimpleITK takes the qform where the sform has shears.
    """
    reader = itk_header(path)
    dimensions = reader.GetDimension()
    axes = min(dimensions, 3)
    origin, direction = np.zeros(3), np.zeros((3, axes))
    origin[:axes] = reader.GetOrigin()[:axes]
    direction[:axes] = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:axes, :axes]
    to_ras = np.array([-1.0, -1.0, 1.0])  # SimpleITK points to the left and posterior
    spacing = np.array(reader.GetSpacing()[:axes])
    # A negative pixdim of NIfTI is a negative spacing to SimpleITK, of which nnU-Net takes the amount.
    direction = to_ras[:, None] * direction * np.where(spacing < 0, -1.0, 1.0)
    return Geometry(reader.GetSize(), np.abs(spacing), to_ras * origin, direction)


def difference(expected: Geometry, given: Geometry) -> str:
    """Return what differs first, as a phrase that the name of the expected image ends; empty if nothing does."""
    if given.size != expected.size:
        return f"has the size {given.size}, not the {expected.size} of"
    tolerance = TOLERANCE * min(np.abs(expected.spacing).min(), 1.0)
    for name, compared in (("spacing", "spacing"), ("origin", "origin"), ("direction", "steps")):
        there = getattr(expected, compared)
        with np.errstate(invalid="ignore"):  # an infinite spacing is refused when the file is read
            distances = np.abs(getattr(given, compared) - there)
        if not (distances <= tolerance + np.finfo(np.float32).eps * np.abs(there)).all():  # so that NaN differs
            return f"has the {name} {_text(getattr(given, name))}, not the {_text(getattr(expected, name))} of"
    return ""


def _text(values: Vector) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in np.round(values.ravel(), 7) + 0.0) + ")"


def check_permission(path: Path) -> None:
    """Raise ValueError for a file that the user may not read: libraries say of it that it is damaged."""
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read (permission denied); ask its owner, or chmod u+r") from error
    except OSError:  # something else, which the caller describes
        pass
