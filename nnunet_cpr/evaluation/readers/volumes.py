"""Planes of images and segmentations on disk, turned as a radiologist views them.

NIfTI files are read by nibabel, which needs no more memory than the file's own type takes, and of an image only the
plane that is shown; all others by nnU-Net's readers, which make whole volumes of float32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from nnunet_cpr.evaluation.readers import nnunet_readers as readers

PLANES = ("sagittal", "coronal", "axial")
_SIDEWAYS = 1.5
"""An axis whose voxels are so much longer than the vertical ones is the one that was sliced in acquisition."""


class Volume:
    """A plane or spatial image or segmentation; its axes are those of the file."""

    def __init__(self, voxels: Any, affine: npt.NDArray[np.floating]) -> None:
        """Take an array, or nibabel's proxy of one, of 2 or 3 axes (a fourth one are channels); affine in RAS mm."""
        self._voxels = np.asanyarray(voxels)[..., None] if voxels.ndim == 2 else voxels
        self.shape: tuple[int, ...] = tuple(self._voxels.shape[:3])
        self.spacing = nib.affines.voxel_sizes(affine)
        orientation = nib.orientations.io_orientation(affine)
        self._direction = [int(axis) for axis in orientation[:, 0]]
        self._turn = nib.orientations.ornt_transform(orientation, nib.orientations.axcodes2ornt("LAS"))

    def labels(self) -> npt.NDArray[np.integer]:
        """Return all voxels as whole numbers. They are kept, so that planes are not read anew."""
        voxels = np.asanyarray(self._voxels[self._all()])
        labels: npt.NDArray[np.integer] = (
            voxels if np.issubdtype(voxels.dtype, np.integer) else np.rint(voxels).astype(np.int32)
        )
        self._voxels = labels
        return labels

    def plane(self, axis: int, index: int) -> npt.NDArray[Any]:
        """Return the plane across an axis, as rows from the lower edge upwards: anterior or superior is up.

        Axial and coronal planes have the patient's right on the left, sagittal ones the face on the right.
        """
        slab = np.asanyarray(self._voxels[self._all(axis, index)])
        upright = nib.orientations.apply_orientation(slab, self._turn)
        plane: npt.NDArray[Any] = upright.take(0, axis=self._direction[axis]).T
        return plane

    def plane_name(self, axis: int) -> str:
        """Return what the planes across an axis are called."""
        return PLANES[self._direction[axis]]

    def aspect(self, axis: int) -> float:
        """Return height over width of a pixel of the planes across an axis."""
        across, up = (
            self.spacing[self._direction.index(other)] for other in range(3) if other != self._direction[axis]
        )
        return float(up / across)

    def best_axis(self) -> int:
        """Return the axis whose planes are looked at: axial ones, unless the volume was acquired in other planes."""
        if 1 in self.shape:
            return self.shape.index(1)
        vertical, coarsest = self._direction.index(2), int(np.argmax(self.spacing))
        return coarsest if self.spacing[coarsest] > _SIDEWAYS * self.spacing[vertical] else vertical

    def _all(self, axis: int | None = None, index: int = 0) -> tuple[slice | int, ...]:
        """Return what selects the first channel, and of an axis only one index."""
        wanted = [slice(index, index + 1) if one == axis else slice(None) for one in range(3)]
        return (*wanted, *(0 for _ in self._voxels.shape[3:]))


def open_segmentation(path: Path, reader: str | None = None, spacing: Sequence[float] | None = None) -> Volume:
    """Open a segmentation; `reader` is the name of nnU-Net's, by default the one that it would choose.

    `spacing` (z, y, x) is that of a file whose reader finds none in it. Raises whatever nibabel or nnU-Net's readers do
    for a file that cannot be read, here or when it is used.
    """
    if readers.nibabel_reads(path, reader):
        return _open_nifti(path)
    return _from_nnunet(readers.read_voxels(path, reader), spacing)


def open_image(path: Path, reader: str | None = None) -> Volume:
    """Open an image, of which the first channel is used, as :func:`open_segmentation` does."""
    if readers.nibabel_reads(path, reader):
        return _open_nifti(path)
    return _from_nnunet(readers.read_voxels(path, reader, image=True), None)


def _open_nifti(path: Path) -> Volume:
    image: Any = nib.load(path)
    return Volume(image.dataobj, image.affine)


def _from_nnunet(read: readers.ReadImage, spacing: Sequence[float] | None) -> Volume:
    affine = np.eye(4)
    lengths = np.array(spacing or read.spacing, dtype=float)[::-1]
    # SimpleITK's axes point to the patient's left and back, those of an affine to the right and front.
    affine[:3, :3] = np.diag([-1, -1, 1]) @ read.direction * lengths
    return Volume(read.channels[0].transpose(), affine)
