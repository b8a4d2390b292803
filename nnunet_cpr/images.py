"""Where images lie in space, from their headers, and what differs between two of them.

SimpleITK is imported where it is used, because the command line imports what imports this module.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-3
"""Two images lie at the same place if no spacing, no coordinate of the origin and none of the step from voxel to voxel
differs by more than this share of the smallest spacing, nor by more than this many mm: far less than a voxel, more than
the rounding of headers that hold float32."""

Vector = npt.NDArray[np.float64]


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

    Any affine will do, also one with shears, which SimpleITK refuses.
    """
    axes = min(len(image.shape), 3)
    spacing = np.array(image.header.get_zooms()[:axes], dtype=float)
    return Geometry(tuple(image.shape), spacing, image.affine[:3, 3], image.affine[:3, :axes] / spacing)


def itk_geometry(path: Path) -> Geometry:
    """Return the geometry of a file as SimpleITK reads it; RuntimeError if it cannot.

    Of a NIfTI header with two different placements, SimpleITK takes the qform where the sform has shears.
    """
    import SimpleITK

    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimensions = reader.GetDimension()
    axes = min(dimensions, 3)
    origin, direction = np.zeros(3), np.zeros((3, axes))
    origin[:axes] = reader.GetOrigin()[:axes]
    direction[:axes] = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:axes, :axes]
    to_ras = np.array([-1.0, -1.0, 1.0])  # SimpleITK points to the left and posterior
    spacing = np.array(reader.GetSpacing()[:axes])
    return Geometry(reader.GetSize(), spacing, to_ras * origin, to_ras[:, None] * direction)


def difference(expected: Geometry, given: Geometry) -> str:
    """Return what differs first, as a phrase that the name of the expected image ends; empty if nothing does."""
    if given.size != expected.size:
        return f"has the size {given.size}, not the {expected.size} of"
    tolerance = TOLERANCE * min(np.abs(expected.spacing).min(), 1.0)
    for name, compared in (("spacing", "spacing"), ("origin", "origin"), ("direction", "steps")):
        distances = np.abs(getattr(given, compared) - getattr(expected, compared))
        if not (distances <= tolerance).all():  # so that NaN differs
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
