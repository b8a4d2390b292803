"""The finished or unfinished runs of the training scripts, read from their folders and checked."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from harness.parsing import CONFIG_FILE, LARGEST
from harness.records import METRICS_FILE, TRACE_FILE, read_table

DEFAULT_METRICS = {
    "train_gpt2": "val_perplexity",
    "train_deit": "val_accuracy",
    "train_cifar100": "val_accuracy",
    "train_clip": "val_accuracy",
    "train_lora": "val_accuracy",
    "train_grokking": "val_accuracy",
}
NOT_EVALUATED = ("train_loss", "lr", "memory_mb")
"""Columns of metrics.csv that are of a step, not of an evaluation; so is the one that ends in `_per_second`."""


@dataclass(frozen=True)
class Run:
    """A run: its folder, the script, the settings, what it was trained on, and its evaluations."""

    folder: Path
    script: str
    settings: dict[str, Any]
    data: dict[str, Any]
    evaluations: dict[str, pd.Series]
    """Of each metric the values by step; a value may be NaN."""

    @property
    def seed(self) -> int:
        """The seed of weights, data order and dropout."""
        seed: int = self.settings["seed"]
        return seed

    @property
    def last_step(self) -> int:
        """The step of the last evaluation."""
        return max(int(series.index[-1]) for series in self.evaluations.values())

    @property
    def finished(self) -> bool:
        """Whether the last evaluation is that of the end of training."""
        steps: int = self.settings["max_steps"]
        return self.last_step >= steps

    def trace(self) -> pd.DataFrame:
        """Return step, tensor, reg, kappa, lagmul; empty if CPR was not used or nothing is traced yet.

        Raises:
            ValueError: the file is truncated or no trace, or holds what no training writes.
        """
        from nnunet_cpr.training.trace import implausible  # imports matplotlib, whose settings are put aside first

        path = self.folder / TRACE_FILE
        if not path.is_file():
            return pd.DataFrame(columns=["step", "tensor", "reg", "kappa", "lagmul"])
        _check_lines(path)
        types = {"step": int, "tensor": str, "reg": float, "kappa": float, "lagmul": float}
        try:
            table = pd.read_csv(path, usecols=list(types), dtype=types)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as a trace: {error}") from error
        numbers = table[["reg", "kappa", "lagmul"]].to_numpy()
        if (wrong := implausible(numbers)).any():
            raise ValueError(f"{path} holds {numbers[wrong][0]:g}, which no training writes; the file is damaged")
        if table["tensor"].isna().any() or (table.groupby("tensor")["step"].diff() <= 0).any():
            raise ValueError(f"{path} has rows without a tensor, or with steps that do not increase; it is damaged")
        return table


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs of one script. Raises ValueError or OSError with one line about the first that is wrong."""
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if run.script != runs[0].script:
            raise ValueError(
                f"{runs[0].folder} is a run of {runs[0].script}, but {run.folder} of {run.script}; "
                "compare the runs of one script"
            )
    return runs


def read_run(folder: Path) -> Run:
    """Read one run. Raises ValueError where the folder is none, or has no evaluation, or its files are damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is no run of a training script (it holds no {CONFIG_FILE})")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        script, settings = config["script"], config["settings"]
        data: Any = next((start["data"] for start in config.get("starts", []) if start.get("data")), {})
        _check_types(script, settings, data)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as the configuration of a run: it is not UTF-8") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as the configuration of a run: {error!r}") from error
    if script not in DEFAULT_METRICS:
        raise ValueError(f"{folder} is a run of {script}; only those of {', '.join(DEFAULT_METRICS)} are compared")
    evaluations = _read_evaluations(folder / METRICS_FILE)
    if not evaluations:
        raise ValueError(
            f"{folder} has no evaluation yet (they come every {settings.get('eval_every')} steps); leave it out or wait"
        )
    return Run(folder, script, settings, data, evaluations)


def _check_types(script: Any, settings: dict[str, Any], data: Any) -> None:
    """Raise KeyError or TypeError where the settings or the record of the data are not as the scripts write them."""
    for name in ("seed", "max_steps", "optimizer"):
        settings[name]
    if settings["max_steps"] is None:
        raise TypeError("max_steps is None, not a number")
    texts = {name: settings.get(name) for name in ("optimizer", "kappa_init_method", "reg_function", "step_form")}
    for name, value in {"script": script, **texts}.items():
        if not isinstance(value, str | None):
            raise TypeError(f"{name} is {value!r:.80}, not a text")
    if not isinstance(data, dict):
        raise TypeError(f"data of starts is {data!r:.80}, not a mapping")
    if not isinstance(settings.get("data"), str | None):
        raise TypeError(f"data is {settings['data']!r:.80}, not a path")
    for name in ("seed", "max_steps", "eval_every", "lr", "weight_decay", "kappa_init_param", "kappa_update"):
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise TypeError(f"{name} is {value!r:.80}, not a number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise TypeError(f"{name} is {value!r:.20}..., but at most {LARGEST}")


def _read_evaluations(path: Path) -> dict[str, pd.Series]:
    _check_lines(path)
    try:
        table = read_table(path)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as the metrics of a run: {error!r}") from error
    found = {}
    for name, pairs in table.items():
        if pairs and name not in NOT_EVALUATED and not name.endswith("_per_second"):
            steps, values = zip(*pairs, strict=True)
            if list(steps) != sorted(set(steps)):
                raise ValueError(f"{path} has steps that do not increase; it is not the record of one run")
            found[name] = pd.Series(values, index=steps, dtype=float, name=name)
    return found


def _check_lines(path: Path) -> None:
    """Raise where the last line is cut off, or a line has more or fewer fields than the first."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is no run of a training script (it holds no {path.name})")
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.count(",") != lines[0].count(",")]
    if not text.endswith("\n") or wrong:
        where = wrong[0] if wrong else len(lines)
        raise ValueError(
            f"{path} is truncated or damaged in line {where}; continue the run with --resume, or remove the line"
        )
