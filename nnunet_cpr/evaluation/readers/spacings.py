"""How far apart voxels are, where a file's own header does not say it or says it twice.

The spacing of a TIFF volume lies in a .json beside it, which nnU-Net asks for beside images and labels, but does not
copy to gt_segmentations; it writes one beside every prediction.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_cpr.evaluation.readers import nnunet_readers as readers
from nnunet_cpr.files import read_json
from nnunet_cpr.images import TOLERANCE, nifti_unit, zero_spacing

_LAYOUT = '{"spacing": [z, y, x]} in mm'
_RIGHT_ANGLE = 1e-3
"""Cosine of an angle that still counts as right."""


def spacing_files(*segmentations: Path) -> tuple[Path, ...]:
    """Return where nnU-Net has the spacing of TIFF volumes: beside each of the segmentations, and beside its image."""
    found = []
    for path in segmentations:
        json = _json(path)
        folder = path.parent.absolute()  # "." has no name
        images = folder.with_name(folder.name.replace("labels", "images"))
        found += [json, images / json.name]
    return tuple(dict.fromkeys(found))


def read_spacing(files: Iterable[Path]) -> list[float] | None:
    """Return the spacing (z, y, x) in mm in the first of nnU-Net's .json files that is there, None without any.

    Raises:
        ValueError: the file cannot be read or holds no spacing.
    """
    path = next((path for path in files if path.is_file()), None)
    if path is None:
        return None
    try:
        spacing = [float(length) for length in read_json(path)["spacing"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} holds no spacing; write it as {_LAYOUT}") from error
    if len(spacing) != 3 or not all(0 < length < math.inf for length in spacing):
        raise ValueError(f"{path} has the spacing {spacing}; write it as {_LAYOUT}, all above 0")
    return spacing


def reference_spacing(
    reference: Path, prediction: Path, reader: str | None, files: Sequence[Path]
) -> list[float] | None:
    """Return the spacing (z, y, x) in mm of a reference whose own format has none, None where nothing says it.

    Only TIFF volumes can have one, in `files` or, without these, where nnU-Net keeps it.
    Without a .json of the reference or its image that of the prediction counts, unless it says 1 mm everywhere: nnU-Net
    writes this where it knows no spacing.

    Raises:
        ValueError: reference and prediction have different spacings.
    """
    if not readers.takes_json_spacing(reference, reader):
        return None
    known = read_spacing(files or spacing_files(reference))
    written = read_spacing([_json(prediction)]) if readers.is_tiff(prediction) else None
    if known is None:
        return None if written == [1.0, 1.0, 1.0] else written
    if written is not None and not np.allclose(written, known, rtol=TOLERANCE, atol=0):
        raise ValueError(
            f"{_json(prediction)} has the spacing {written} (z, y, x), not the {known} of the reference {reference}"
        )
    return known


def no_spacing(reference: Path) -> str:
    """Say that the spacing of a TIFF volume is unknown, and what to do."""
    return (
        f"{reference} has no spacing, which distances in mm need: write it as {_LAYOUT} to {_json(reference)}, where "
        "nnU-Net looks for it, or beside the image; [1, 1, 1] gives distances in voxels"
    )


def nifti_caution(path: Path) -> str:
    """Return what makes distances in a NIfTI file doubtful, as the end of a sentence on it; empty if nothing does.

    Raises:
        ValueError: the header gives no spacing.
    """
    import nibabel

    with readers.errors_named(path):
        image: Any = nibabel.load(path)
        zero = zero_spacing(image, path)
    if zero:
        raise ValueError(f"{path} has no spacing along an axis (pixdim), for which 1 is read; correct its header")
    axes = min(len(image.shape), 3)
    spacing = np.array(image.header.get_zooms()[:axes], dtype=float)
    columns = image.affine[:3, :axes]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.allclose(lengths, spacing, rtol=TOLERANCE, atol=0):
        scale = nifti_unit(image)
        return (
            f"has two spacings in its header, {_text(spacing * scale)} mm, by which distances are measured as nnU-Net "
            f"does, and {_text(lengths * scale)} mm in its affine"
        )
    cosines = (columns / lengths).T @ (columns / lengths) - np.eye(axes)
    if not (np.abs(cosines) <= _RIGHT_ANGLE).all():
        return "has axes that are not at right angles; distances are measured as if they were"
    return ""


def _json(path: Path) -> Path:
    return path.with_name(path.name[: -len(readers.ending_of(path) or path.suffix)] + ".json")


def _text(lengths: Any) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)
