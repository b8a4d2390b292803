"""Finished nnU-Net trainings: Dice per case from their summary.json, their labels and files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from nnunet_cpr.evaluation.readers.case_files import CaseFiles, Locate, image_beside
from nnunet_cpr.evaluation.readers.provenance import Doubt, changed_since, newer_training
from nnunet_cpr.evaluation.readers.spacings import spacing_files
from nnunet_cpr.evaluation.readers.summary_json import RETRAIN, Summary, case_name, read_summary, reason_of
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.files import read_json
from nnunet_cpr.labels import Label, foreground_labels, ignore_label, read_dataset_json
from nnunet_cpr.nnunet.paths import known_folder, needed_folder
from nnunet_cpr.nnunet.setup import Setup


@dataclass(frozen=True)
class Training:
    """One fold of one run of a trainer."""

    dataset: str
    trainer: str
    """The name shown."""
    run: str
    """nnU-Net's name of the trainer; of a comparison of several configurations, also what model_name reads."""
    fold: str
    folder: Path
    """nnU-Net's results folder of the fold."""
    advice: ClassVar[str] = RETRAIN
    """How to repair a summary.json that is damaged."""
    part: ClassVar[str] = "Tr"
    """How nnU-Net ends the names of the folders with the cases' images and labels."""

    @property
    def title(self) -> str:
        """Its name in sentences about a dataset."""
        return f"{self.run} fold {self.fold}"

    @property
    def model(self) -> Path:
        """Where dataset.json and plans.json are."""
        return self.folder.parent

    @property
    def validation(self) -> Path:
        """Where nnU-Net wrote predictions and summary.json."""
        return self.folder / "validation"

    def unusable(self) -> str:
        """Say why there is no result of the last training here; empty if there is one."""
        path = self.validation / "summary.json"
        if not path.is_file():
            return str(path)
        newer = newer_training(self.folder)
        return f"{path} ({newer})" if newer else ""

    def doubt(self) -> Doubt | None:
        """Return what has changed since it was trained, None if nothing is known to have."""
        return changed_since(self.folder, self.dataset, self.fold, self.validated())

    def validated(self) -> list[str]:
        """Return the cases of its result, empty if they are not known or there is none."""
        with suppress(ValueError):
            return self.summary().cases
        # The names say what it was validated with even where a value is damaged.
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            cases = read_json(self.validation / "summary.json")["metric_per_case"]
            return [case_name(case["prediction_file"]) for case in cases]
        return []

    def summary(self) -> Summary:
        """Return nnU-Net's summary.json. Raises ValueError if it is missing or damaged."""
        return read_summary(self.validation / "summary.json", self.advice)

    def cases(self, counts: bool = False) -> pd.DataFrame:
        """Return Dice per case and label, as CASE_COLUMNS; with `counts` also the metrics of voxel counts.

        Raises:
            ValueError: summary.json or dataset.json is missing or damaged, or they do not fit each other.
        """
        table = self.summary().table(self.labels(), counts, self.advice)
        names = {"dataset": self.dataset, "trainer": self.trainer, "fold": self.fold, "run": self.run}
        return table.assign(**names)[CASE_COLUMNS]

    @cached_property
    def _description(self) -> dict[str, Any]:
        path = self.model / "dataset.json"
        try:
            content = read_dataset_json(path)
            ignore_label(content)
            if not isinstance(content["file_ending"], str):
                raise ValueError("file_ending is no text")
            if not foreground_labels(content):
                raise ValueError("it names no label besides background")
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = reason_of(error)
            raise ValueError(f"{path} cannot be read ({reason}); it comes with every nnU-Net training") from error

    def labels(self) -> dict[str, Label]:
        """Return the foreground labels, or regions, by name, from the dataset.json beside the model."""
        return foreground_labels(self._description)

    @property
    def ignore_label(self) -> int | None:
        """The value that marks voxels of the references that count for nothing, None without."""
        return ignore_label(self._description)

    @cached_property
    def reader(self) -> str | None:
        """The reader that nnU-Net chose for the dataset's images and segmentations, None where it is not known."""
        return stated_reader(self.model)

    def case_files(self) -> dict[str, CaseFiles]:
        """Return the files of every validation case; they may be missing.

        Raises:
            ValueError: summary.json or dataset.json is missing or damaged.
        """
        ending = self._description["file_ending"]
        labels, ignore, places = self.labels(), self.ignore_label, self._reference_folders()
        raw_labels, raw_images = self._in_raw("labels"), self._in_raw("images")
        summary = self.summary()
        found = {}
        for case, last_resort in zip(summary.cases, summary.references, strict=True):
            # Results may have been moved since summary.json was written.
            references = [*(place / f"{case}{ending}" for place in places), last_resort]
            reference = next((path for path in references if path.is_file()), references[0])
            found[case] = CaseFiles(
                dataset=self.dataset,
                trainer=self.trainer,
                run=self.run,
                fold=self.fold,
                case=case,
                reference=reference,
                prediction=self.validation / f"{case}{ending}",
                labels=labels,
                reader=self.reader,
                spacing_files=spacing_files(*(folder / reference.name for folder in raw_labels), reference),
                images=(*(folder / f"{case}_0000{ending}" for folder in raw_images), image_beside(reference, case)),
                ignore=ignore,
            )
        return found

    def _in_raw(self, kind: str) -> list[Path]:
        """Return the folder of nnU-Net's raw data with the cases' images or labels, none if nnUNet_raw is not set."""
        raw = known_folder("nnUNet_raw")
        return [raw / self.dataset / f"{kind}{self.part}"] if raw else []

    def _reference_folders(self) -> list[Path]:
        preprocessed = known_folder("nnUNet_preprocessed")
        copies = [preprocessed / self.dataset / "gt_segmentations"] if preprocessed else []
        return [*copies, *self._in_raw("labels")]


T = TypeVar("T", bound=Training)
MEMBERS = "+"
"""Between the names of the models of an ensemble."""


def stated_reader(*folders: Path) -> str | None:
    """Return the name of nnU-Net's reader that a plans.json, else a dataset.json, in one of the folders says."""
    for name, key in (("plans.json", "image_reader_writer"), ("dataset.json", "overwrite_image_reader_writer")):
        for folder in folders:
            with suppress(OSError, ValueError, KeyError, TypeError):
                reader = read_json(folder / name)[key]
                if isinstance(reader, str) and reader != "None":
                    return reader
    return None


def locate_in_trainings(trainings: Sequence[Training]) -> Locate:
    """Return what finds the files of the trainings' validation cases."""
    by_name = {(t.dataset, t.run, t.fold): t for t in trainings}

    @cache
    def files(dataset: str, run: str, fold: str) -> dict[str, CaseFiles]:
        return by_name[dataset, run, fold].case_files()

    return lambda dataset, run, fold, case: files(dataset, run, fold)[case]


def models(
    datasets: list[str], configuration: str, trainers: Mapping[str, list[str]], plans: str
) -> Iterator[tuple[str, str, str, list[Path]]]:
    """Yield dataset, trainer shown, run and nnU-Net's folder of the model, or of each of the two that are an ensemble.

    A model is nnU-Net's trainer, or TRAINER:CONFIGURATION[:PLANS] where they are not those given.

    Raises:
        ValueError: nnUNet_results is not set, or there is no such dataset.
    """
    root, default = needed_folder("nnUNet_results"), Setup(plans, configuration)
    for dataset in dict.fromkeys(map(dataset_name, datasets)):
        for trainer, runs in trainers.items():
            for run in runs:
                members = [root / dataset / model_name(model, default) for model in run.split(MEMBERS)]
                yield dataset, trainer, run, members


def model_name(model: str, default: Setup) -> str:
    """Return nnU-Net's name of the folder of a model, which may name a configuration and plans itself."""
    trainer, *own = model.split(":")
    configuration, plans = (*own, *(default.configuration, default.plans)[len(own) :])
    return f"{trainer}__{plans}__{configuration}"


def with_results(found: Sequence[T], skip_missing: bool, have_none: str, advice: str) -> tuple[list[T], list[T]]:
    """Return those that have a usable result, and the others.

    Raises:
        ValueError: there are others (unless `skip_missing`); says that they `have_none`, why, and what to do.
    """
    unusable = {one: why for one in found if (why := one.unusable())}
    if unusable and not skip_missing:
        reasons = shortened(list(unusable.values()), 10)
        raise ValueError(f"{len(unusable)} of {len(found)} {have_none}: {reasons}; {advice}, or use --skip-missing")
    return [one for one in found if one not in unusable], list(unusable)


def shortened(names: list[str], shown: int = 5) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def name_trainings(trainings: Sequence[Training]) -> str:
    """Name trainings in few words, with their folds."""
    folds: dict[tuple[str, str], list[str]] = {}
    for training in trainings:
        folds.setdefault((training.dataset, training.run), []).append(training.fold)
    return "; ".join(f"{dataset}, {run}, fold {', '.join(those)}" for (dataset, run), those in folds.items())


def dataset_name(name_or_id: str) -> str:
    """Return nnU-Net's full name of a dataset, Dataset004_Hippocampus for 4. Raises ValueError if there is none."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(name_or_id if name_or_id.startswith("Dataset") else int(name_or_id)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name_or_id} is not a dataset of nnU-Net's folders, or not the only one (give DatasetXXX_Name)"
        ) from error
