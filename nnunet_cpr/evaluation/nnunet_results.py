"""Finished nnU-Net trainings: Dice per case from their summary.json, their labels and files."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_cpr.evaluation.provenance import Doubt, changed_since, newer_training
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.evaluation.segmentations import LARGEST_LABEL
from nnunet_cpr.files import read_json

Label = int | tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """One fold of one run of a trainer."""

    dataset: str
    trainer: str
    """The name shown."""
    run: str
    """nnU-Net's name of the trainer."""
    fold: str
    folder: Path
    """nnU-Net's results folder of the fold."""

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
        names: list[str] = []
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            cases = read_json(self.validation / "summary.json")["metric_per_case"]
            names = [_case_name(case["prediction_file"]) for case in cases]
        return changed_since(self.folder, self.dataset, self.fold, names)

    @cached_property
    def _description(self) -> dict[str, Any]:
        path = self.folder.parent / "dataset.json"
        try:
            content: dict[str, Any] = read_json(path)
            foreground_labels(content), ignore_label(content), content["file_ending"]
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read ({error!r}); it comes with every nnU-Net training") from error

    def labels(self) -> dict[str, Label]:
        """Return the foreground labels, or regions, by name, from the dataset.json beside the model."""
        return foreground_labels(self._description)

    @property
    def ignore_label(self) -> int | None:
        """The value that marks voxels of the references that count for nothing, None without."""
        return ignore_label(self._description)

    @property
    def reader(self) -> str | None:
        """The reader that nnU-Net chose for the dataset's images and segmentations, None where it is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(read_json(self.folder.parent / "plans.json")["image_reader_writer"])
        return None

    def image(self, case: str) -> Path | None:
        """Return where the first channel of a case's image is in nnU-Net's raw data, None if that is not set."""
        raw = os.environ.get("nnUNet_raw")  # noqa: SIM112 (nnU-Net's name)
        return Path(raw) / self.dataset / "imagesTr" / f"{case}_0000{self._description['file_ending']}" if raw else None

    def files(self) -> list[tuple[str, Path, Path]]:
        """Return case, reference and prediction file of every validation case.

        Raises:
            ValueError: a file is missing.
        """
        found = self.locate()
        for reference, prediction in found.values():
            for path in (reference, prediction):
                if not path.is_file():
                    raise ValueError(
                        f"{path} is missing; surface metrics need the segmentations, not only summary.json"
                    )
        return [(case, *paths) for case, paths in found.items()]

    def locate(self) -> dict[str, tuple[Path, Path]]:
        """Return where reference and prediction of every validation case should be; they may be missing."""
        ending = self._description["file_ending"]
        places = [
            Path(os.environ[variable]) / self.dataset / part
            for variable, part in (("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr"))
            if variable in os.environ
        ]
        found = {}
        for case in read_json(self.validation / "summary.json")["metric_per_case"]:
            name = _case_name(case["prediction_file"])
            # Results may have been moved since: the paths in summary.json are the last resort.
            references = [*(place / f"{name}{ending}" for place in places), Path(case["reference_file"])]
            reference = next((path for path in references if path.is_file()), references[0])
            found[name] = reference, self.validation / f"{name}{ending}"
        return found


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
    root = os.environ.get("nnUNet_results")  # noqa: SIM112 (nnU-Net's name)
    if not root:
        raise ValueError("nnUNet_results is not set: export nnUNet_results=FOLDER, where nnU-Net keeps trained models")
    trainings = [
        Training(
            dataset, trainer, run, fold, Path(root) / dataset / f"{run}__{plans}__{configuration}" / f"fold_{fold}"
        )
        for dataset in dict.fromkeys(map(dataset_name, datasets))
        for trainer, runs in trainers.items()
        for run in runs
        for fold in dict.fromkeys(folds)
    ]
    unusable = {t: why for t in trainings if (why := t.unusable())}
    missing = list(unusable)
    if missing and not skip_missing:
        raise ValueError(
            f"{len(missing)} of {len(trainings)} trainings have no validation result: "
            f"{shortened(list(unusable.values()), 10)}; "
            "finish them (nnUNetv2_train ... --c or --val), name the folds to compare with -f, or use --skip-missing"
        )
    return [t for t in trainings if t not in missing], missing


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


def foreground_labels(dataset_json: Mapping[str, Any]) -> dict[str, Label]:
    """Return the labels that nnU-Net evaluates by name: without background and ignore label, regions as tuples."""
    labels: dict[str, Label] = {}
    for name, value in dataset_json["labels"].items():
        if name == "ignore" or value in (0, [0]):
            continue
        labels[str(name)] = tuple(map(_label, value)) if isinstance(value, (list, tuple)) else _label(value)
    return labels


def ignore_label(dataset_json: Mapping[str, Any]) -> int | None:
    """Return the value that marks voxels of the references that count for nothing, None without."""
    value = dataset_json["labels"].get("ignore")
    return None if value is None else _label(value)


def _label(value: Any) -> int:
    """Return a label's value. Raises ValueError for what cannot be one."""
    if isinstance(value, (int, float, str)):
        with suppress(ValueError, OverflowError):
            if float(value) in range(LARGEST_LABEL + 1):
                return int(float(value))
    raise ValueError(f"{value!r} is no label; labels are whole numbers from 0 to {LARGEST_LABEL}")


def read_cases(
    validation: Path, dataset: str, trainer: str, run: str, fold: str, labels: dict[str, Label]
) -> pd.DataFrame:
    """Read Dice per case and label from the summary.json of a validation folder, as CASE_COLUMNS.

    Dice is NaN where label and prediction are both empty, as nnU-Net has it.

    Raises:
        ValueError: the file is missing, damaged, or of other labels.
    """
    path = validation / "summary.json"
    try:
        cases = read_json(path)["metric_per_case"]
        names = [_case_name(case["prediction_file"]) for case in cases]
        metrics = [{key: float(value["Dice"]) for key, value in case["metrics"].items()} for case in cases]
        if not names:
            raise ValueError("no cases")
        if wrong := [dice for case in metrics for dice in case.values() if not (math.isnan(dice) or 0 <= dice <= 1)]:
            raise ValueError(f"a Dice of {wrong[0]:g}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error!r}); write it anew with nnUNetv2_train ... --val"
        ) from error
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
        (dataset, trainer, fold, name, label, "Dice", values[str(key)], run)
        for name, values in zip(names, metrics, strict=True)
        for label, key in keys.items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS)


def _case_name(prediction_file: str) -> str:
    name = re.split(r"[/\\]", prediction_file)[-1]
    return name.removesuffix(".gz").rpartition(".")[0] or name
