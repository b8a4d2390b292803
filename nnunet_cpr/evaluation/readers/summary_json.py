"""nnU-Net's summary.json: Dice and voxel counts of every case and label. Each file is parsed once."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation.metrics import COUNTS, OF_COUNTS, of_counts
from nnunet_cpr.files import read_json
from nnunet_cpr.labels import Label, check_case_name

RETRAIN = "write it anew with nnUNetv2_train ... --val"
FOLDERS = "compare that version's predictions as folders: --reference FOLDER --pred NAME=FOLDER ..."


@dataclass(frozen=True)
class Summary:
    """What a summary.json holds, case by case. Arrays have the shape (cases, labels)."""

    path: Path
    cases: list[str]
    references: list[Path]
    """The reference of each case, where nnU-Net found it."""
    labels: list[str]
    """nnU-Net's keys of the labels: "1", or "(1, 2)" for a region."""
    dice: npt.NDArray[np.float64]
    """NaN where label and prediction are both empty, as nnU-Net has it."""
    of_counts: dict[str, npt.NDArray[np.float64]]
    """The metrics of voxel counts: see metrics.py. Empty if a count is missing or wrong."""
    true_voxels: npt.NDArray[np.float64]
    """The size of each label in the reference, NaN where it is not known."""
    missing_counts: str = field(default="", repr=False)
    """What is wrong with the voxel counts."""

    def table(self, labels: Mapping[str, Label], counts: bool, advice: str) -> pd.DataFrame:
        """Return case, label, metric and value, with `counts` also of the metrics of voxel counts.

        Raises:
            ValueError: there are other labels than these, a case twice, or no voxel counts; `advice` says what to do.
        """
        if counts and self.missing_counts:
            raise ValueError(f"{self.path} is missing or damaged ({self.missing_counts}); {advice}")
        for case in self.cases:
            check_case_name(case, self.path)
        keys = [self._key(label) for label in labels.values()]
        if None in keys or set(self.labels) != set(keys):
            named = ", ".join(sorted(self.labels))
            raise ValueError(f"{self.path} has the labels {named}, but dataset.json says {labels}")
        self._check_cases()
        metrics = {"Dice": self.dice} | (self.of_counts if counts else {})
        columns = [self.labels.index(str(key)) for key in keys]
        values = np.stack([values[:, columns] for values in metrics.values()], axis=2)
        shape = values.shape
        return pd.DataFrame(
            {
                "case": np.repeat(np.array(self.cases, dtype=object), shape[1] * shape[2]),
                "label": np.tile(np.repeat(np.array(list(labels), dtype=object), shape[2]), shape[0]),
                "metric": np.tile(np.array(list(metrics), dtype=object), shape[0] * shape[1]),
                "value": values.ravel(),
            }
        )

    def _check_cases(self) -> None:
        if repeated := sorted(case for case, count in Counter(self.cases).items() if count > 1):
            raise ValueError(f"{self.path} holds {repeated[0]} more than once")

    def only(self, cases: Sequence[str], advice: str) -> "Summary":
        """Return the part of these cases. Raises ValueError if one is missing; `advice` says what to do."""
        self._check_cases()
        rows = {case: row for row, case in enumerate(self.cases)}
        if missing := [case for case in cases if case not in rows]:
            raise ValueError(f"{self.path} has no {missing[0]}; {advice}")
        chosen = [rows[case] for case in cases]
        return replace(
            self,
            cases=list(cases),
            references=[self.references[row] for row in chosen],
            dice=self.dice[chosen],
            of_counts={name: values[chosen] for name, values in self.of_counts.items()},
            true_voxels=self.true_voxels[chosen],
        )

    def _key(self, label: Label) -> str | None:
        """Return nnU-Net's key of a label; a region of one value may be written either way."""
        spellings = [str(label), str((label,))] if isinstance(label, int) else [str(label)]
        if isinstance(label, tuple) and len(label) == 1:
            spellings.append(str(label[0]))
        return next((one for one in spellings if one in self.labels), None)


def read_summary(path: Path, advice: str = RETRAIN) -> Summary:
    """Read a summary.json.

    Raises:
        ValueError: the file is missing or damaged, or of nnU-Net's version 1; `advice` says how to repair it.
    """
    try:
        status = path.stat()
        return _parse(path, (status.st_mtime_ns, status.st_size, status.st_ino))
    except _Version1 as error:
        raise ValueError(f"{path} cannot be used ({error}); {FOLDERS}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is missing or damaged ({reason_of(error)}); {advice}") from error


def reason_of(error: Exception) -> str:
    """Return why a file of nnU-Net's cannot be used, in a user's words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    return str(error) if isinstance(error, (OSError, ValueError)) else "its content has another form than nnU-Net's"


class _Version1(ValueError):
    pass


@lru_cache(maxsize=1024)
def _parse(path: Path, status: tuple[int, ...]) -> Summary:
    """Read the file; `status` tells its versions apart."""
    content = read_json(path)
    if "metric_per_case" not in content and "results" in content:
        raise _Version1("nnU-Net version 1 wrote it")
    cases = content["metric_per_case"]
    if not cases:
        raise ValueError("no cases")
    names = [case_name(case["prediction_file"]) for case in cases]
    labels = list(cases[0]["metrics"])
    for case in cases:
        if case["metrics"].keys() != set(labels):
            raise ValueError(f"{case_name(case['prediction_file'])} has other labels than {names[0]}")
    shape = len(cases), len(labels)
    dice, true_voxels = np.empty(shape), np.full(shape, math.nan)
    metrics = {name: np.full(shape, math.nan) for name in OF_COUNTS}
    missing = ""
    for row, case in enumerate(cases):
        for column, label in enumerate(labels):
            values = case["metrics"][label]
            dice[row, column] = _dice(values["Dice"])
            try:
                found = of_counts(values)
                true_voxels[row, column] = values["TP"] + values["FN"]
            except (ValueError, KeyError) as error:
                lacking = next((key for key in COUNTS if key not in values), None)
                missing = missing or (f"it has no {lacking}, which --counts needs" if lacking else str(error))
                continue
            for name, value in found.items():
                metrics[name][row, column] = value
    references = [Path(str(case.get("reference_file", ""))) for case in cases]
    return Summary(path, names, references, labels, dice, {} if missing else metrics, true_voxels, missing)


def _dice(value: Any) -> float:
    """Return a Dice of a summary.json, NaN where nnU-Net could not compute one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (value != value or 0 <= value <= 1):
        return float(value)
    raise ValueError(f"a Dice of {value!r:.40}")


def case_name(prediction_file: str) -> str:
    """Return a case's name from the path of its prediction, whatever system wrote it."""
    name = re.split(r"[/\\]", prediction_file)[-1]
    return name.removesuffix(".gz").rpartition(".")[0] or name
