"""Finished nnU-Net trainings: Dice per case from their summary.json, their labels and files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from nnunet_cpr.evaluation.metrics import COUNTS, of_counts
from nnunet_cpr.evaluation.provenance import Doubt, changed_since, newer_training
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.evaluation.segmentations import dangling
from nnunet_cpr.evaluation.spacings import spacing_files
from nnunet_cpr.files import read_json
from nnunet_cpr.labels import Label as Label
from nnunet_cpr.labels import check_case_name, read_dataset_json
from nnunet_cpr.labels import foreground_labels as foreground_labels
from nnunet_cpr.labels import ignore_label as ignore_label
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
    part: ClassVar[str] = "Tr"
    """How nnU-Net ends the names of the folders with the cases' images and labels."""

    @property
    def title(self) -> str:
        """Its name in sentences about a dataset."""
        return f"{self.run} fold {self.fold}"

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
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            cases = read_json(self.validation / "summary.json")["metric_per_case"]
            return [case_name(case["prediction_file"]) for case in cases]
        return []

    @cached_property
    def _description(self) -> dict[str, Any]:
        path = self.folder.parent / "dataset.json"
        try:
            content = read_dataset_json(path)
            ignore_label(content), content["file_ending"]
            if not foreground_labels(content):
                raise ValueError("it names no label besides background")
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = _reason(error)
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
        return stated_reader(self.folder.parent)

    def spacing_files(self, reference: Path) -> tuple[Path, ...]:
        """Return where nnU-Net has the spacing of a case whose files are TIFF volumes."""
        return spacing_files(*(raw / reference.name for raw in self._in_raw("labels")), reference)

    def image(self, case: str) -> Path | None:
        """Return where the first channel of a case's image is in nnU-Net's raw data, None if that is not set."""
        name = f"{case}_0000{self._description['file_ending']}"
        return next((folder / name for folder in self._in_raw("images")), None)

    def files(self) -> list[tuple[str, Path, Path]]:
        """Return case, reference and prediction file of every validation case.

        Raises:
            ValueError: a file is missing.
        """
        found = self.locate()
        for reference, prediction in found.values():
            for path in (reference, prediction):
                if not path.is_file():
                    what = dangling(path) or " is missing"
                    raise ValueError(f"{path}{what}; surface metrics need the segmentations, not only summary.json")
        return [(case, *paths) for case, paths in found.items()]

    def locate(self) -> dict[str, tuple[Path, Path]]:
        """Return where reference and prediction of every validation case should be; they may be missing."""
        ending = self._description["file_ending"]
        places = self._reference_folders()
        found = {}
        for case in read_json(self.validation / "summary.json")["metric_per_case"]:
            name = case_name(case["prediction_file"])
            # Results may have been moved since: the paths in summary.json are the last resort.
            references = [*(place / f"{name}{ending}" for place in places), Path(case["reference_file"])]
            reference = next((path for path in references if path.is_file()), references[0])
            found[name] = reference, self.validation / f"{name}{ending}"
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


def stated_reader(*folders: Path) -> str | None:
    """Return the name of nnU-Net's reader that a plans.json, else a dataset.json, in one of the folders says."""
    for name, key in (("plans.json", "image_reader_writer"), ("dataset.json", "overwrite_image_reader_writer")):
        for folder in folders:
            with suppress(OSError, ValueError, KeyError, TypeError):
                reader = read_json(folder / name)[key]
                if isinstance(reader, str) and reader != "None":
                    return reader
    return None


def find_trainings(
    datasets: list[str],
    configuration: str,
    trainers: Mapping[str, list[str]],
    plans: str,
    folds: list[str],
    skip_missing: bool = False,
) -> tuple[list[Training], list[Training]]:
    """Return the finished trainings of nnU-Net's results folder, and the missing ones.

    `trainers` maps a name to the runs (seeds) that it groups.

    Raises:
        ValueError: nnUNet_results is not set, or a summary.json is missing (unless `skip_missing`); names all that are.
    """
    trainings = [
        Training(dataset, trainer, run, fold, model / f"fold_{fold}")
        for dataset, trainer, run, model in models(datasets, configuration, trainers, plans)
        for fold in dict.fromkeys(folds)
    ]
    advice = "finish them (nnUNetv2_train ... --c or --val), name the folds to compare with -f"
    return with_results(trainings, skip_missing, "trainings have no validation result", advice)


def models(
    datasets: list[str], configuration: str, trainers: Mapping[str, list[str]], plans: str
) -> Iterator[tuple[str, str, str, Path]]:
    """Yield dataset, trainer shown, run and nnU-Net's folder of each model.

    A run is nnU-Net's trainer, or TRAINER:CONFIGURATION or TRAINER:CONFIGURATION:PLANS where they are not those given.

    Raises:
        ValueError: nnUNet_results is not set, or there is no such dataset.
    """
    root = needed_folder("nnUNet_results")
    for dataset in dict.fromkeys(map(dataset_name, datasets)):
        for trainer, runs in trainers.items():
            for run in runs:
                yield dataset, trainer, run, root / dataset / model_name(run, Setup(plans, configuration))


def model_name(run: str, default: Setup) -> str:
    """Return nnU-Net's name of the folder of a run, which may name a configuration and plans itself."""
    trainer, *own = run.split(":")
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


def read_cases(
    validation: Path,
    dataset: str,
    trainer: str,
    run: str,
    fold: str,
    labels: dict[str, Label],
    advice: str = "write it anew with nnUNetv2_train ... --val",
    counts: bool = False,
) -> pd.DataFrame:
    """Read Dice per case and label from the summary.json of a validation folder, as CASE_COLUMNS.

    Dice is NaN where label and prediction are both empty, as nnU-Net has it. `advice` says how to repair the file. With
    `counts`, there are also the metrics of the voxel counts: see metrics.py.

    Raises:
        ValueError: the file is missing, damaged, or of other labels.
    """
    path = validation / "summary.json"
    problem = "is missing or damaged"
    try:
        content = read_json(path)
        if "metric_per_case" not in content and "results" in content:
            problem = "cannot be used"
            advice = "compare that version's predictions as folders: --reference FOLDER --pred NAME=FOLDER ..."
            raise ValueError("nnU-Net version 1 wrote it")
        cases = content["metric_per_case"]
        names = [case_name(case["prediction_file"]) for case in cases]
        metrics = [{key: _values(value, counts) for key, value in case["metrics"].items()} for case in cases]
        if not names:
            raise ValueError("no cases")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} {problem} ({_reason(error)}); {advice}") from error
    for name in names:
        check_case_name(name, path)
    keys = {}
    for name, label in labels.items():
        # nnU-Net's keys are "1", and "(1, 2)" for regions; a region of one label may be either.
        spellings = [str(label), str((label,))] if isinstance(label, int) else [str(label)]
        if isinstance(label, tuple) and len(label) == 1:
            spellings.append(str(label[0]))
        keys[name] = next((s for s in spellings if s in metrics[0]), None)
    evaluated = set(metrics[0])
    if None in keys.values() or evaluated != set(keys.values()) or any(set(m) != evaluated for m in metrics):
        raise ValueError(f"{path} has the labels {', '.join(sorted(evaluated))}, but dataset.json says {labels}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path} holds {repeated[0]} more than once")
    rows = [
        (dataset, trainer, fold, name, label, metric, value, run)
        for name, values in zip(names, metrics, strict=True)
        for label, key in keys.items()
        for metric, value in values[str(key)].items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS)


def _reason(error: Exception) -> str:
    """Return what an exception says; of those that only name a key or a type, also their kind."""
    return str(error) if isinstance(error, (OSError, ValueError)) else repr(error)


def _values(values: Mapping[str, Any], counts: bool) -> dict[str, float]:
    found = {"Dice": _dice(values["Dice"])}
    if counts:
        if lacking := [key for key in COUNTS if key not in values]:
            raise ValueError(f"it has no {lacking[0]}, which --counts needs")
        found |= of_counts(values)
    return found


def _dice(value: Any) -> float:
    """Return a Dice of a summary.json, NaN where nnU-Net could not compute one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (value != value or 0 <= value <= 1):
        return float(value)
    raise ValueError(f"a Dice of {value!r:.40}")


def case_name(prediction_file: str) -> str:
    """Return a case's name from the path of its prediction, whatever system wrote it."""
    name = re.split(r"[/\\]", prediction_file)[-1]
    return name.removesuffix(".gz").rpartition(".")[0] or name
