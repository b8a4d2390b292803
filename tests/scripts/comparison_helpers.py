"""Folders as the training scripts leave them, with given evaluations."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.parsing import make
from harness.settings import Settings
from train_gpt2 import GPT2Settings
from train_grokking import GrokkingSettings


def write_run(
    folder: Path, values: Sequence[Any], *, script: str = "train_gpt2", every: int = 10,
    data: dict[str, Any] | None = None, trace: Sequence[str] | None = None, **given: Any,
) -> Path:  # fmt: skip
    """Write a run with the metric's `values`, evaluated every `every` steps; max_steps is theirs unless given."""
    classes: dict[str, type[Settings]] = {"train_gpt2": GPT2Settings, "train_grokking": GrokkingSettings}
    given = {"max_steps": every * len(values), "warmup_steps": 0 if script == "train_grokking" else 2, **given}
    settings = make(
        classes[script], {"reg_step_size": 1, **given} if given.get("optimizer") == "adamcpr" else given
    ).to_json()
    folder.mkdir(parents=True)
    config = {"script": script, "settings": settings, "starts": [{"step": 0, "data": data or {}}]}
    (folder / "config.json").write_text(json.dumps(config))
    metric = "val_perplexity" if script == "train_gpt2" else "val_accuracy"
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "train_loss", "lr", metric, "train_accuracy", "tokens_per_second", "memory_mb"])
        for number, value in enumerate(values, 1):
            writer.writerow([every * number - 5, 2.5, 0.001, "", "", 100, 700])
            writer.writerow([every * number, 2 / number, 0.001, value, 1 - 0.5**number, 100, 700])
    if trace:
        lines = ["step,tensor,reg,kappa,lagmul", *trace]
        (folder / "cpr_trace.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV file, by their first column."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {next(iter(row.values())): row for row in rows}
