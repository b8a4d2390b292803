"""Segmentations of any tool in plain folders: read, checked against the reference, Dice as nnU-Net computes it.

File formats are those that nnU-Net reads, with the reader that nnU-Net chooses for the ending. nnU-Net, SimpleITK and
torch are imported where they are used, because the command line imports this module.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from nnunet_cpr.evaluation.nnunet_results import Label, foreground_labels
from nnunet_cpr.evaluation.results import CASE_COLUMNS

if TYPE_CHECKING:
    from nnunet_cpr.evaluation.surface import SurfaceTask

Item = TypeVar("Item")
Result = TypeVar("Result")

GEOMETRY_TOLERANCE = 1e-3
"""Of spacing and origin relative to the spacing, of direction cosines absolute: far less than a voxel, more than the
rounding of headers that hold float32."""
LARGEST_LABEL = 65535
"""Labels are uint16 in nnU-Net."""
NAMES_IN_ERRORS = 5
START_SECONDS = 15.0
"""What new processes cost before they work; they have to save more."""


def read_folders(
    reference: Path, predictions: dict[str, Path], dataset: str, num_processes: int, intersect: bool = False
) -> pd.DataFrame:
    """Compute Dice of every case and label in folders of segmentations, as CASE_COLUMNS.

    Labels are those of the dataset.json in the reference folder or its parent, by name, and whatever other value
    occurs in a reference, by number. Dice is NaN where label and prediction are both empty, as nnU-Net has it. With
    `intersect` the folders may have different cases; those with a reference are read.

    Raises:
        ValueError: folders or files that are missing, do not fit each other, or cannot be read; names them.
    """
    named, ignore = dataset_labels(reference)
    pairs = _pairs(reference, predictions, intersect)
    tasks = [_DiceTask(*files, labels=tuple(named.values()), ignore=ignore) for _, _, files in pairs]
    found = list(in_parallel(_dice, tasks, num_processes, "Dice"))
    labels = _all_labels(named, ignore, found)
    rows = [
        # A label that occurs in neither file was not computed: it is what nnU-Net calls NaN.
        (dataset, name, 0, case, label, "Dice", dice.values.get(value, np.nan), name)
        for (name, case, _), dice in zip(pairs, found, strict=True)
        for label, value in labels.items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype({"value": float})


def surface_tasks(reference: Path, predictions: dict[str, Path], cases: pd.DataFrame) -> "list[SurfaceTask]":
    """Return what :func:`surface_metrics` needs for the cases and labels that :func:`read_folders` returned."""
    from nnunet_cpr.evaluation.surface import SurfaceTask

    named, _ = dataset_labels(reference)
    references = list_cases(reference)
    files = {name: list_cases(folder) for name, folder in predictions.items()}
    tasks = []
    for (dataset, name, case), rows in cases.groupby(["dataset", "trainer", "case"], sort=False):
        labels = {str(label): named[label] if label in named else int(label) for label in rows["label"].unique()}
        tasks.append(SurfaceTask(dataset, name, name, 0, case, references[case], files[name][case], labels))
    return tasks


def dataset_labels(reference: Path) -> tuple[dict[str, Label], int | None]:
    """Return nnU-Net's labels or regions by name, and its ignore label, from a dataset.json in or above `reference`.

    Without a dataset.json nothing is named.
    """
    for path in (reference / "dataset.json", reference.parent / "dataset.json"):
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                ignore = content["labels"].get("ignore")
                return foreground_labels(content), None if ignore is None else int(ignore)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} cannot be read as nnU-Net's dataset.json ({error!r})") from error
    return {}, None


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
    expected, given = _geometry(reference), _geometry(prediction)
    if expected["size"] != given["size"]:
        raise _geometry_error(reference, prediction, "size", expected, given)
    spacing = np.array(expected["spacing"])
    tolerances = {
        "spacing": GEOMETRY_TOLERANCE * spacing,
        "origin": GEOMETRY_TOLERANCE * spacing.min(),
        "direction": GEOMETRY_TOLERANCE,
    }
    for key, tolerance in tolerances.items():
        if (np.abs(np.subtract(expected[key], given[key])) > tolerance).any():
            raise _geometry_error(reference, prediction, key, expected, given)


def read_segmentation(path: Path) -> tuple[npt.NDArray[np.uint16], list[float]]:
    """Return the labels (z, y, x) of a segmentation and its spacing in mm in the same order, by nnU-Net's reader.

    A plane image has one slice.

    Raises:
        ValueError: the file cannot be read, is truncated, or holds something else than labels.
    """
    try:
        _check_complete(path)
        image, properties = _reader(path).read_seg(str(path))
    except MemoryError:
        raise
    except Exception as error:  # each library behind nnU-Net's readers has its own
        raise _unreadable(path, error) from error
    if len(image) != 1:
        raise ValueError(f"{path} has {len(image)} channels; a segmentation has one")
    with np.errstate(invalid="ignore"):
        labels = image[0].astype(np.uint16)
    if not np.array_equal(labels, image[0]):
        wrong = image[0][labels != image[0]].flat[0]
        raise ValueError(f"{path} holds {wrong:g}; labels are whole numbers from 0 to {LARGEST_LABEL}")
    return labels, [float(length) for length in properties["spacing"]]


def in_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    title: str,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield `function` of every item in their order, with a progress bar on a terminal.

    A single process is this one, and so it is for little work: importing torch and MONAI takes a new process many
    seconds. Others are spawned, because torch's threads do not survive a fork; `initializer` runs once in each.

    Raises:
        ValueError: a process was killed.
    """
    with tqdm(desc=title, unit="case", total=len(items), disable=None, leave=False) as bar:
        for result in _results(function, items, min(num_processes, len(items)), initializer):
            bar.update()
            yield result


def _results(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[[], None] | None,
) -> Iterator[Result]:
    """Begin in this process, and start others once it is clear that they save more time than they cost."""
    begun = 0.0
    for done, item in enumerate(items):
        if done == 1:
            begun = time.monotonic()  # the first item also imports the libraries
        if workers > 1 and done >= 2:
            left = (time.monotonic() - begun) / (done - 1) * (len(items) - done)
            if left * (1 - 1 / workers) > START_SECONDS:
                yield from _in_processes(function, items[done:], workers, initializer)
                return
        yield function(item)


def _in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[[], None] | None,
) -> Iterator[Result]:
    # Unlike multiprocessing.Pool, an executor notices that a process was killed (for memory) and does not wait forever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as executor:
        chunk = max(1, min(8, len(items) // (8 * workers)))
        try:
            yield from executor.map(function, items, chunksize=chunk)
        except BrokenProcessPool as error:
            raise ValueError(
                "a process ended unexpectedly, probably for lack of memory; use fewer processes"
            ) from error


@dataclass(frozen=True)
class _DiceTask:
    reference: Path
    prediction: Path
    labels: tuple[Label, ...]
    ignore: int | None


@dataclass(frozen=True)
class _Dice:
    """Dice of the labels that were asked for or occur in the files, and what occurs where."""

    values: dict[Label, float]
    in_reference: list[int]
    in_prediction: list[int]
    prediction: Path


class _AlreadyRead:
    """Gives segmentations that have been read to nnU-Net, so that it does not read them again."""

    def __init__(self, **segmentations: npt.NDArray[np.uint16]) -> None:
        self._segmentations = segmentations

    def read_seg(self, name: str) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
        return self._segmentations[name], {}


def _dice(task: _DiceTask) -> _Dice:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    check_geometry(task.reference, task.prediction)
    reference, prediction = read_segmentation(task.reference)[0], read_segmentation(task.prediction)[0]
    in_reference, in_prediction = _foreground(reference), _foreground(prediction)
    labels = list(dict.fromkeys([*task.labels, *in_reference, *in_prediction]))
    reader = _AlreadyRead(reference=reference, prediction=prediction)
    metrics = compute_metrics("reference", "prediction", reader, labels, task.ignore)["metrics"]
    values = {label: float(metrics[label]["Dice"]) for label in labels}
    return _Dice(values, in_reference, in_prediction, task.prediction)


def _foreground(segmentation: npt.NDArray[np.uint16]) -> list[int]:
    return [int(value) for value in np.flatnonzero(np.bincount(segmentation.ravel())) if value != 0]


def _all_labels(named: dict[str, Label], ignore: int | None, found: list[_Dice]) -> dict[str, Label]:
    """Return the labels by name: those of dataset.json, then values of references that it does not name.

    Raises:
        ValueError: a prediction holds a value that no reference and no dataset.json has.
    """
    known = {value for label in named.values() for value in (label if isinstance(label, tuple) else (label,))}
    if ignore is not None:
        known.add(ignore)
    unnamed = sorted({value for dice in found for value in dice.in_reference} - known)
    for dice in found:
        if strange := [value for value in dice.in_prediction if value not in known and value not in unnamed]:
            raise ValueError(f"{dice.prediction} holds the label {strange[0]}, which no reference has")
    return named | {str(value): value for value in unnamed}


def _pairs(reference: Path, predictions: dict[str, Path], intersect: bool) -> list[tuple[str, str, tuple[Path, Path]]]:
    """Return (name of the prediction, case, (reference file, prediction file)) for every prediction and case."""
    references = list_cases(reference)
    pairs = []
    for name, folder in predictions.items():
        files = list_cases(folder)
        if not intersect:
            _check_none_lacks(folder, references, files, "predictions")
            _check_none_lacks(reference, files, references, "references")
        common = [case for case in references if case in files]
        if not common:
            raise ValueError(f"{folder} and {reference} have no case in common")
        pairs += [(name, case, (references[case], files[case])) for case in common]
    return pairs


def _check_none_lacks(folder: Path, needed: dict[str, Path], present: dict[str, Path], what: str) -> None:
    if lacking := [path.name for case, path in needed.items() if case not in present]:
        some = ", ".join(lacking[:NAMES_IN_ERRORS]) + (", ..." if len(lacking) > NAMES_IN_ERRORS else "")
        raise ValueError(f"{folder} lacks {len(lacking)} of {len(needed)} {what}: {some}")


def _geometry(path: Path) -> dict[str, tuple[float, ...]]:
    """Return size in voxels, spacing and origin in mm, and direction cosines from a file's header."""
    import SimpleITK

    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return {
        "size": reader.GetSize(),
        "spacing": reader.GetSpacing(),
        "origin": reader.GetOrigin(),
        "direction": reader.GetDirection(),
    }


def _geometry_error(
    reference: Path, prediction: Path, key: str, expected: dict[str, Any], given: dict[str, Any]
) -> ValueError:
    said, wanted = (tuple(round(value, 5) for value in geometry[key]) for geometry in (given, expected))
    return ValueError(f"{prediction} has the {key} {said}, but its reference {reference} has {wanted}")


def _unreadable(path: Path, error: Exception) -> ValueError:
    # Libraries say much, over several lines; the last one tells what happened.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return ValueError(f"{path} cannot be read; it may be damaged or truncated ({reason})")


def _check_complete(path: Path) -> None:
    """Read a NIfTI file with nibabel, which raises for a truncated one: SimpleITK reads it without a word."""
    if _ending(path) in (".nii", ".nii.gz"):
        import nibabel

        np.asanyarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


def _ending(path: Path) -> str | None:
    return next((path.name[-len(ending) :] for ending in _readers() if path.name.lower().endswith(ending)), None)


def _reader(path: Path) -> Any:
    ending = _ending(path)
    if ending is None:
        raise ValueError(f"nnU-Net has no reader for {path.name}")
    return _readers()[ending.lower()]()


@cache
def _readers() -> dict[str, type]:
    """Return nnU-Net's reader by file ending."""
    from nnunetv2.imageio import reader_writer_registry as registry

    endings = [ending for reader in registry.LIST_OF_IO_CLASSES for ending in reader.supported_file_endings]
    return {
        ending: registry.determine_reader_writer_from_file_ending(ending, verbose=False)
        for ending in dict.fromkeys(endings)
    }
