"""Checks a labeled test set before anything starts: nothing of it may be among the training cases.

Images and labels are compared by content, so that a copy under another name is found, too, even one that was
compressed anew. Imports no torch.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_cpr.content_id import content_id, same_content
from nnunet_cpr.evaluation.formatting import plural
from nnunet_cpr.evaluation.readers.labeled_cases import LabeledCase, images_by_case, labeled_cases, labels_by_case
from nnunet_cpr.evaluation.readers.nnunet_results import shortened
from nnunet_cpr.labels import read_dataset_json


def test_set_mistakes(raw: Path, preprocessed: Path) -> list[str]:
    """Return a line for each reason why the labeled test set of a raw dataset cannot be used, none if it can.

    Of compressed files eight bytes are read, unless one looks like a copy. Uncompressed files are read whole where a
    training file has the same size.
    """
    try:
        description = read_dataset_json(raw / "dataset.json")
        ending = str(description["file_ending"])
        if missing := [str(raw / part) for part in ("imagesTs", "labelsTs") if not (raw / part).is_dir()]:
            return [f"missing: {', '.join(missing)}; test_set: true needs the images and labels of a test set there"]
        if misnamed := list(_misnamed_files(raw, ending)):
            return misnamed
        cases = labeled_cases(raw, ending)
        training = _training_cases(raw, description, ending)
        copies = labels_by_case(preprocessed / "gt_segmentations", ending)  # what was preprocessed may be older
        return [
            *_incomplete_cases(raw, ending, cases, description, training),
            *_names_of_training_cases(cases, training, copies),
            *_copies_of_training_files(cases, training, copies.values()),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
        return [f"the test set cannot be checked ({reason})"]


def _training_cases(raw: Path, description: dict[str, Any], ending: str) -> dict[str, LabeledCase]:
    """Return the training cases that nnU-Net would find; labels and images may be missing."""
    if "dataset" in description:  # a list of files, which may lie anywhere
        return {
            name: LabeledCase(name, [_listed(raw, image) for image in files["images"]], _listed(raw, files["label"]))
            for name, files in description["dataset"].items()
        }
    images, labels = images_by_case(raw / "imagesTr", ending), labels_by_case(raw / "labelsTr", ending)
    return {
        name: LabeledCase(name, images.get(name, []), raw / "labelsTr" / f"{name}{ending}")
        for name in sorted(images.keys() | labels.keys())
    }


def _listed(raw: Path, file: str) -> Path:
    return raw / os.path.expandvars(file)  # an absolute path stays as it is


def _misnamed_files(raw: Path, ending: str) -> Iterator[str]:
    """Name files that nnU-Net would take for other cases than they are, or pass over."""
    for folder, name in (
        ("imagesTs", rf"[^.].*_\d{{4}}{re.escape(ending)}"),
        ("labelsTs", rf"[^.].*{re.escape(ending)}"),
    ):
        wrong = [
            path
            for path in sorted((raw / folder).glob("*"))
            if path.name.endswith(ending) and not re.fullmatch(name, path.name)
        ]
        expected = f"CASE_0000{ending}" if folder == "imagesTs" else f"CASE{ending}"
        if wrong:
            yield f"{shortened(list(map(str, wrong)), 2)}: not named as nnU-Net's {expected}; rename or remove that"
    known = images_by_case(raw / "imagesTs", ending)
    others = [
        path
        for path in sorted((raw / "labelsTs").glob("*"))
        if not path.name.endswith((ending, ".json")) and any(path.name.startswith(f"{case}.") for case in known)
    ]
    if others:
        yield f"{shortened(list(map(str, others)), 2)}: another ending than {ending}, the dataset's file_ending"


def _incomplete_cases(
    raw: Path, ending: str, cases: list[LabeledCase], description: dict[str, Any], training: dict[str, LabeledCase]
) -> Iterator[str]:
    if not cases:
        yield f"{raw / 'labelsTs'} holds no label (CASE{ending})"
    # As many files as a training case has: a color image of three channels is one file.
    numbers = {len(case.images) for case in training.values() if case.images} or {len(description["channel_names"])}
    for case in cases:
        names = [path.name for path in case.images]
        if not names:
            yield f"{case.label} has no image {raw / 'imagesTs' / f'{case.name}_0000{ending}'}"
        elif len(names) not in numbers or names != [f"{case.name}_{k:04}{ending}" for k in range(len(names))]:
            count = " or ".join(map(str, sorted(numbers)))
            yield f"the test case {case.name} must have {count} channels, from _0000 on, but has {', '.join(names)}"


def _names_of_training_cases(
    cases: list[LabeledCase], training: dict[str, LabeledCase], copies: dict[str, Path]
) -> Iterator[str]:
    for case in cases:
        trained = training[case.name].label if case.name in training else copies.get(case.name)
        if trained is not None:
            yield f"{case.label} has the name of the training case {trained}; rename it, or leave it out of one of them"


def _copies_of_training_files(
    cases: list[LabeledCase], training: dict[str, LabeledCase], preprocessed_labels: Iterable[Path]
) -> Iterator[str]:
    images = list(chain.from_iterable(case.images for case in training.values()))
    labels = [*(case.label for case in training.values()), *preprocessed_labels]
    found = [
        *_copies(list(chain.from_iterable(case.images for case in cases)), images),
        *_copies([case.label for case in cases], labels),
    ]
    if found:
        copy, original = found[0]
        more = f" ({plural(len(found) - 1, 'more file')} likewise)" if len(found) > 1 else ""
        yield f"{copy} has the same content as the training file {original}{more}; nobody can test with that"


def _copies(tested: list[Path], trained: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a test set that are copies of training files, with those."""
    tested, trained = ([path for path in paths if path.is_file()] for paths in (tested, trained))
    sizes = {path.stat().st_size for path in tested} & {path.stat().st_size for path in trained}
    originals: dict[str, list[Path]] = {}
    for path in trained:
        if _is_comparable(path, sizes):
            originals.setdefault(content_id(path), []).append(path)
    for path in tested:
        for original in originals.get(content_id(path), []) if _is_comparable(path, sizes) else []:
            if same_content(path, original) and not _is_constant(path):
                yield path, original
                break


def _is_comparable(path: Path, sizes: set[int]) -> bool:
    """Whether its content may be that of another file: any size may after it was compressed."""
    return path.suffix == ".gz" or path.stat().st_size in sizes


def _is_constant(path: Path) -> bool:
    """Whether all voxels are equal: an empty label, or a channel that is missing, may well be there twice."""
    from nnunet_cpr.evaluation.readers.nnunet_readers import errors_named, read_voxels

    with errors_named(path):
        voxels = read_voxels(path, image=True).channels
    return bool(voxels.min() == voxels.max())
