"""Folders in the layout of the Medical Segmentation Decathlon: read, checked, and handed to nnU-Net's own converter."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_cpr.datasets.nnunet_reading import check_readable, reader_name, same_spacing
from nnunet_cpr.files import refuse_pipe, write_json
from nnunet_cpr.images import check_permission, difference, nifti_geometry, nifti_voxels
from nnunet_cpr.labels import IGNORE, read_dataset_json

ENDING = ".nii.gz"
CONVERTERS_READER = "SimpleITKIO"
"""What nnU-Net's converter reads images with, whatever dataset.json states for later."""
FOLDS = 5  # nnU-Net's cross-validation; it needs at least one case a fold
_LAYOUT = "see any dataset.json of the Decathlon for the layout"


@dataclass(frozen=True)
class MSDDataset:
    """A folder with imagesTr, labelsTr and dataset.json whose contents agree."""

    folder: Path
    number: int
    name: str
    description: dict[str, Any]
    cases: tuple[str, ...]

    @property
    def nnunet_name(self) -> str:
        """The name nnU-Net's converter gives the dataset."""
        return f"Dataset{self.number:03d}_{self.name}"

    @property
    def msd_name(self) -> str:
        """The folder name that nnU-Net's converter understands."""
        return f"Task{self.number:02d}_{self.name}"


def read_msd(folder: Path) -> MSDDataset:
    """Read the folder's description and file names, and check that every image has its label and the other way round.

    Raises ValueError, naming the file or case and what to do, when the folder is not one that nnU-Net could convert.
    """
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder}: no folder {part}; --data takes a folder with imagesTr, labelsTr, dataset.json")
    description = _read_description(folder / "dataset.json")
    images, labels = _cases(folder / "imagesTr"), _cases(folder / "labelsTr")
    listed = {Path(entry["image"]).name.removesuffix(ENDING) for entry in description["training"]}
    for problem, cases, advice in (
        ("listed in dataset.json, but not in imagesTr", listed - images, "add the image or remove the entry"),
        ("no label in labelsTr for image", images - labels, "add the label or remove the image"),
        ("no image in imagesTr for label", labels - images, "add the image or remove the label"),
    ):
        if cases:
            raise ValueError(f"{folder}: {problem}: {_shorten(cases)}; {advice}")
    if len(images) < FOLDS:
        raise ValueError(f"{folder}: {len(images)} cases in imagesTr, nnU-Net's {FOLDS} folds need at least {FOLDS}")
    number, name = _number_and_name(folder.resolve().name)
    return MSDDataset(folder.resolve(), number, name, description, tuple(sorted(images)))


def check_cases(dataset: MSDDataset, progress: Callable[[Iterable[str]], Iterable[str]] = iter) -> None:
    """Open every image and label and check shape, affine, channels and label values.

    `progress` wraps the cases to iterate over, e.g. tqdm. Raises ValueError naming the first bad case and what to do.
    """
    channels = len(dataset.description["modality"])
    known = {int(value): name for value, name in dataset.description["labels"].items()}
    reader = reader_name(ENDING, dataset.description)
    for case in progress(dataset.cases):
        image_path, label_path = (dataset.folder / part / f"{case}{ENDING}" for part in ("imagesTr", "labelsTr"))
        image, voxels = open_nifti(image_path)
        label, values = open_nifti(label_path)
        if image.shape[:3] != label.shape:
            raise ValueError(
                f"{case}: the image's shape is {image.shape[:3]}, the label's {label.shape}; "
                "resample the label to its image"
            )
        if (image.shape[3] if image.ndim > 3 else 1) != channels:
            raise ValueError(
                f"{case}: the image's shape is {image.shape}, but dataset.json's modality names {channels} channel(s); "
                "channels are the fourth axis"
            )
        # Only where they lie: the sizes were compared above, and the image's may have channels.
        place = replace(nifti_geometry(image), size=label.shape)
        if differs := difference(place, nifti_geometry(label)):
            raise ValueError(
                f"{case}: image and label lie at different places (the label {differs} its image); "
                "give both the geometry of the scanner image"
            )
        if not np.isfinite(voxels).all():
            raise ValueError(f"{case}: the image holds NaN or infinite voxels; replace them")
        unknown = sorted(set(np.unique(values).tolist()) - set(known))
        if unknown:
            raise ValueError(
                f"{case}: label value {list_values(unknown)} is not in dataset.json, which "
                f"knows {known}; add it there or correct the label"
            )
        spacing, of_label = check_readable(image_path, CONVERTERS_READER), check_readable(label_path, reader)
        if reader != CONVERTERS_READER:
            spacing = check_readable(image_path, reader)
        if not same_spacing(of_label, spacing):
            raise ValueError(
                f"{case}: the label has the spacing {of_label} to nnU-Net, not the {spacing} of its image; "
                "give both the geometry of the scanner image"
            )


def link_for_conversion(dataset: MSDDataset, parent: Path) -> Path:
    """Make the folder below `parent` that nnUNetv2_convert_MSD_dataset wants, and return it.

    The converter insists on a name like Task04_Heart, an imagesTs folder and every key of the original dataset.json,
    so it gets those, with links to the user's images and labels.
    """
    folder = parent / dataset.msd_name
    if folder.exists() and folder.samefile(dataset.folder):
        raise ValueError(f"{folder} is the dataset itself, and links would be written into it; choose another --out")
    (folder / "imagesTs").mkdir(parents=True, exist_ok=True)
    for part in ("imagesTr", "labelsTr"):
        link = folder / part
        link.unlink(missing_ok=True)
        link.symlink_to(dataset.folder / part, target_is_directory=True)
    write_json(folder / "dataset.json", dataset.description | {"numTraining": len(dataset.cases), "test": []})
    return folder


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent}: no dataset.json; --data takes a folder with imagesTr, labelsTr, dataset.json")
    description = read_dataset_json(path)
    missing = [key for key in ("modality", "labels", "training") if not description.get(key)]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; {_LAYOUT}")
    for key, kind in (("modality", dict), ("labels", dict), ("training", list)):
        if not isinstance(description[key], kind):
            raise ValueError(f"{path}: {key} is no {'mapping' if kind is dict else 'list'}; {_LAYOUT}")
    if not all(isinstance(entry, dict) and isinstance(entry.get("image"), str) for entry in description["training"]):
        raise ValueError(f"{path}: an entry of training names no image; {_LAYOUT}")
    values = list(description["labels"])
    if values != [str(value) for value in range(len(values))]:
        raise ValueError(
            f'{path}: labels must be "0", "1", "2"... in that order, each with a name, not {description["labels"]}'
        )
    for key in ("modality", "labels"):
        for value, name in description[key].items():
            if not isinstance(name, str):
                raise ValueError(f"{path}: the name of {key} {value} is {name!r:.40}, not a text; {_LAYOUT}")
    _check_names(path, list(description["labels"].values()))
    return description


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse names that nnU-Net's converter would drop, or on which nnU-Net would fail later."""
    for value, name in enumerate(names):
        if (first := names.index(name)) != value:
            raise ValueError(f"{path}: the labels {first} and {value} are both called {name!r}; name them apart")
    if names[0] != "background":
        raise ValueError(f'{path}: nnU-Net wants label 0 to be called "background", not {names[0]!r}; rename it')
    if IGNORE in names[:-1]:
        raise ValueError(f"{path}: nnU-Net wants the label {IGNORE!r} to have the highest value; rename or move it")


def _cases(folder: Path) -> set[str]:
    """The names that nnU-Net's converter would take from the folder."""
    return {path.name.removesuffix(ENDING) for path in folder.glob(f"*{ENDING}") if path.name[0] not in "._"}


def _number_and_name(folder_name: str) -> tuple[int, str]:
    """The number and name in a folder name like Task04_Heart; other names become the name of dataset 999."""
    match = re.fullmatch(r"Task(\d{2,3})_(\w+)", folder_name, re.ASCII)
    number, name = (int(match[1]), match[2]) if match else (999, folder_name)
    return number, re.sub(r"[^A-Za-z0-9]", "", name) or "Data"


def open_nifti(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    """Return the image and its voxels, read whole; ValueError names a file that is missing, damaged or no image."""
    refuse_pipe(path)
    try:
        image: Any = nib.load(path)
        voxels = nifti_voxels(image)
        if voxels.dtype.kind not in "biuf":
            raise ValueError(f"its voxels are of the type {image.get_data_dtype()}, but must be numbers")
        if not voxels.size:
            raise ValueError(f"it has no voxels, its shape is {image.shape}")
        if not np.isfinite(image.affine).all():
            raise ValueError("its place in space, the affine, holds NaN or infinite numbers")
        return image, voxels
    except MemoryError as error:
        raise ValueError(f"{path}: does not fit into memory; if its header is damaged, replace the file") from error
    except Exception as error:  # nibabel has several of its own
        check_permission(path)
        reason = " ".join(str(error).split())  # of a truncated .nii, nibabel says two lines
        raise ValueError(f"{path}: cannot be read ({reason}); replace the file or remove the case") from error


def list_values(values: Sequence[float], most: int = 5) -> str:
    """Return the first values, to the last digit: 1.0000001 is not 1."""
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


def _shorten(names: set[str], most: int = 5) -> str:
    shown = sorted(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
