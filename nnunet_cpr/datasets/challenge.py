"""A challenge's dataset as a list of cases, each with one file per channel and a label: checked and written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from nnunet_cpr import __version__
from nnunet_cpr.datasets.case_files import Case, CheckedCase, check_case, write_case
from nnunet_cpr.datasets.nnunet_reading import reader_name
from nnunet_cpr.parallel import in_parallel

NAMES_IN_ERRORS = 5


@dataclass
class ChallengeDataset:
    """What the source holds and what dataset.json will say.

    `values` maps the source's label values to those of nnU-Net; `labels` are dataset.json's. `details` go to nnU-Net's
    generate_dataset_json. `notes` are what the user should know about what was found.
    """

    nnunet_name: str
    published: int
    cases: list[Case]
    test_cases: list[Case]
    channel_names: tuple[str, ...]
    labels: dict[str, Any]
    values: dict[int, int]
    details: dict[str, Any]
    ending: str = ".nii.gz"
    label_takes_image_header: bool = False
    notes: list[str] = field(default_factory=list)
    _checked: list[CheckedCase] = field(default_factory=list)

    @property
    def number_of_cases(self) -> int:
        """The training cases that were found."""
        return len(self.cases)

    @property
    def number_of_test_cases(self) -> int:
        """The cases without labels that were found."""
        return len(self.test_cases)

    def check(self, processes: int) -> list[str]:
        """Open every file; return the notes and a line for each label that gets its image's header."""
        check = partial(
            check_case,
            values=self.values,
            label_takes_image_header=self.label_takes_image_header,
            reader=reader_name(self.ending, self.details),
        )
        self._checked = list(
            in_parallel(check, self.cases + self.test_cases, processes, "check", name=attrgetter("name"))
        )
        return self.notes + [checked.caution for checked in self._checked if checked.caution]

    def write(self, folder: Path, link: bool, processes: int) -> None:
        """Write images, labels and dataset.json. Called after `check`."""
        from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

        for part in ("imagesTr", "labelsTr", *(["imagesTs"] if self.test_cases else [])):
            (folder / part).mkdir(parents=True)
        write = partial(write_case, folder=folder, ending=self.ending, values=self.values, link=link)
        for _ in in_parallel(write, self._checked, processes, "write", name=attrgetter("case.name")):
            pass
        generate_dataset_json(
            str(folder),
            channel_names=dict(enumerate(self.channel_names)),
            labels=dict(self.labels),
            num_training_cases=len(self.cases),
            file_ending=self.ending,
            dataset_name=folder.name,
            converted_by=f"nnunet-cpr {__version__}",
            **self.details,
        )


def numbered_labels(names: Iterable[str]) -> dict[str, int]:
    """Return dataset.json's labels: background is 0, the names follow from 1."""
    return {name: value for value, name in enumerate(["background", *names])}


def unchanged(labels: dict[str, int]) -> dict[int, int]:
    """Return the map of label values of a source that already has nnU-Net's."""
    return {value: value for value in labels.values()}


def first_folder(source: Path, candidates: Iterable[str], pattern: str, what: str) -> Path:
    """Return the first of the candidate folders below `source` that holds `pattern`; ValueError if none does."""
    for candidate in candidates:
        if any((source / candidate).glob(pattern)):
            return source / candidate
    raise ValueError(f"{source}: {what} not found; give the folder that holds it")


def files_by_number(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the folder's files whose whole name matches, by the pattern's first group, in the order of names."""
    found = ((re.fullmatch(pattern, path.name), path) for path in sorted(folder.glob("*")))
    return {match[1]: path for match, path in found if match}


def check_pairs(images: dict[str, Path], labels: dict[str, Path], where: Path) -> None:
    """Raise ValueError unless every image has its label and the other way round."""
    for problem, files, others in (
        ("no label for image", images, labels),
        ("no image for label", labels, images),
    ):
        if lacking := [path.name for key, path in files.items() if key not in others]:
            more = len(lacking) - NAMES_IN_ERRORS
            names = ", ".join(lacking[:NAMES_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
            raise ValueError(f"{where}: {problem} {names}; add what is missing or remove these")
