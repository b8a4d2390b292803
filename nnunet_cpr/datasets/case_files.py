"""One case of a challenge: its files checked, then copied, linked or rewritten."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunet_cpr.datasets.msd import list_values, open_nifti
from nnunet_cpr.datasets.nnunet_reading import check_readable, same_spacing
from nnunet_cpr.images import difference, nifti_geometry


@dataclass(frozen=True)
class Case:
    """One file for each channel and a label; test cases have none."""

    name: str
    channels: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True)
class CheckedCase:
    """A case whose files are good, whether its label must be written anew, and what the user should know."""

    case: Case
    rewrite: bool = False
    caution: str = ""


def check_case(case: Case, values: dict[int, int], label_takes_image_header: bool, reader: str) -> CheckedCase:
    """Open the case's files and compare size, spacing, origin and direction with those of the first channel.

    nnU-Net's reader of this name must be able to read them. A label that differs only to nnU-Net will get its image's
    header; with `label_takes_image_header` also any other one of its image's size. Raises ValueError naming the case
    and what to do.
    """
    first, *others = (_open_image(case.name, path) for path in case.channels)
    spacing, *spacings = (_nnunet_spacing(case.name, path, reader) for path in case.channels)
    for path, image, other in zip(case.channels[1:], others, spacings, strict=True):
        differs = difference(nifti_geometry(first), nifti_geometry(image))
        if not differs and not same_spacing(spacing, other):
            differs = f"has the spacing {_text(other)} to nnU-Net, not the {_text(spacing)} of"
        if differs:
            raise ValueError(f"{case.name}: {path.name} {differs} {case.channels[0].name}; correct the file")
    if case.label is None:
        return CheckedCase(case)
    label, array = open_nifti(case.label)
    found = set(np.unique(array).tolist())
    if unknown := sorted(found - set(values)):
        raise ValueError(
            f"{case.name}: unknown label value {list_values(unknown)} in {case.label}; "
            f"known are {', '.join(map(str, values))}; correct the label"
        )
    differs = difference(nifti_geometry(first), nifti_geometry(label))
    may_differ = label_takes_image_header and first.shape == label.shape
    if differs and not may_differ:
        raise ValueError(
            f"{case.name}: the label {case.label.name} {differs} its image; "
            "correct the label, or resample it to its image"
        )
    rewrite = any(values[value] != value for value in found)  # with its image's header
    if not differs and not rewrite:
        differs = _nnunet_difference(case.label, spacing, reader)
    caution = f"{case.name}: the label's header {differs} its image; it gets the image's" if differs else ""
    return CheckedCase(case, bool(differs) or rewrite, caution)


def check_opens(path: Path, reader: str) -> None:
    """Raise ValueError unless the whole file, and its header by nnU-Net's reader of this name, can be read."""
    open_nifti(path)
    check_readable(path, reader)


def write_case(checked: CheckedCase, folder: Path, ending: str, values: dict[int, int], link: bool) -> None:
    """Write images and label to the dataset's folder; only labels that must change are written anew."""
    case = checked.case
    images = folder / ("imagesTr" if case.label else "imagesTs")
    for index, path in enumerate(case.channels):
        place(path, images / f"{case.name}_{index:04d}{ending}", link)
    if case.label:
        target = folder / "labelsTr" / f"{case.name}{ending}"
        if checked.rewrite:
            image, _ = open_nifti(case.channels[0])  # for its header
            write_labels(open_nifti(case.label)[1], values, image, target)
        else:
            place(case.label, target, link)


def place(source: Path, target: Path, link: bool) -> None:
    """Link to the source, or copy its content (not its mode: sources are often read-only)."""
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def write_labels(array: np.ndarray, values: dict[int, int], like: nib.Nifti1Image, target: Path) -> None:
    """Write the label values as `values` maps them, with the geometry of `like`."""
    mapped = np.zeros(array.shape, dtype=np.uint8)
    for value, new in values.items():
        mapped[array == value] = new
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    nib.save(nib.Nifti1Image(mapped, like.affine, header), target)


def _nnunet_spacing(name: str, path: Path, reader: str) -> tuple[float, ...]:
    try:
        return check_readable(path, reader)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _nnunet_difference(label: Path, spacing: tuple[float, ...], reader: str) -> str:
    """Return how the header of a label at its image's place differs from the image's to nnU-Net, which is stricter."""
    try:
        found = check_readable(label, reader)
    except ValueError:
        return "cannot be read by nnU-Net, unlike that of"
    if same_spacing(found, spacing):
        return ""
    return f"has the spacing {_text(found)} to nnU-Net, not the {_text(spacing)} of"


def _text(spacing: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{length:.7g}" for length in spacing) + ")"


def _open_image(name: str, path: Path) -> nib.Nifti1Image:
    image, voxels = open_nifti(path)
    if image.ndim != 3:
        raise ValueError(f"{name}: {path} has the shape {image.shape}; an image has three dimensions")
    if not np.isfinite(voxels).all():
        raise ValueError(f"{name}: {path} holds NaN or infinite voxels; replace them")
    return image
