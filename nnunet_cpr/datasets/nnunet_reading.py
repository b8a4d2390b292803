"""Whether nnU-Net can read a NIfTI file, from its header: its readers refuse some that others take.

That the whole file can be read is checked with nibabel, which notices more than SimpleITK does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_cpr.images import itk_header, zero_spacing

_SPATIAL = 3


def reader_name(ending: str, description: Mapping[str, Any]) -> str:
    """Return the name of nnU-Net's reader for a dataset: the one that dataset.json states, else that of the ending."""
    stated = description.get("overwrite_image_reader_writer")
    if isinstance(stated, str) and stated != "None":
        return stated
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending

    return str(determine_reader_writer_from_file_ending(ending, verbose=False).__name__)


def check_readable(path: Path, reader: str) -> tuple[float, ...]:
    """Return the spacing that nnU-Net's reader of this name takes from a file, which has three axes in space.

    Raises:
        ValueError: the reader refuses the file, or takes a spacing from it that nobody can mean.
    """
    spacing = _spacing(path, reader)
    if zero_spacing(nib.load(path), path) or not all(abs(length) > 0 for length in spacing):
        raise ValueError(
            f"{path}: its header gives no spacing along an axis (pixdim), for which nnU-Net would take 1; correct it"
        )
    return spacing


def _spacing(path: Path, reader: str) -> tuple[float, ...]:
    if "SimpleITK" in reader:
        try:
            header = itk_header(path)
        except RuntimeError as error:
            raise ValueError(_refusal(path, reader, str(error))) from error
        return tuple(header.GetSpacing()[:_SPATIAL])
    image: Any = nib.load(path)
    if "Reorient" in reader:
        orientation = nib.orientations.io_orientation(image.affine)
        if not np.isfinite(orientation).all():
            raise ValueError(_refusal(path, reader, "its affine does not say where its axes point; correct it"))
        nothing = np.broadcast_to(np.uint8(0), image.shape)  # of no size: only the header matters
        image = nib.Nifti1Image(nothing, image.affine, image.header).as_reoriented(orientation)
    return tuple(float(length) for length in image.header.get_zooms()[:_SPATIAL])


def same_spacing(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether nnU-Net's check of a dataset takes two spacings for the same."""
    return bool(np.allclose(one, other))


def _refusal(path: Path, reader: str, reason: str) -> str:
    if "orthonormal" in reason:
        reason = (
            "its axes are not at right angles (ITK only supports orthonormal direction cosines); resample it, and its "
            "label, to axes that are, or remove the case"
        )
    elif lines := [line for line in reason.splitlines() if line.strip()]:
        reason = " ".join(lines[-1].split())  # SimpleITK begins with places in its source
    return f"{path}: nnU-Net's reader {reader} cannot read it: {reason}"
