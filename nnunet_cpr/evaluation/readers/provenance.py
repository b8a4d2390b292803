"""Whether a fold's validation result belongs to the training, split, plans and data that are there now.

nnU-Net keeps the result of an earlier training in the folder of a new one, and checks nothing when a split or plans
change. What the files hold is compared, such as cases and logs, rather than their times, which copying changes.
Imports no torch.
"""

import ast
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_cpr.files import read_json
from nnunet_cpr.nnunet.cascade import first_stage_folds
from nnunet_cpr.nnunet.paths import known_folder

FINAL, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"  # nnU-Net's names
LATE_SECONDS = 3600.0
"""A checkpoint that is so much younger than the result is not explained by copying the folder."""
TOLERANCE = 1e-3
"""Between two computations of a dataset's intensities."""
_EPOCH = re.compile(r": Epoch (\d{1,9})(?!\d)")
_TIMED_EPOCH = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[.\d]*: Epoch (\d{1,9})(?!\d)", re.MULTILINE)
_VALIDATED = re.compile(r": (?:Validation complete|Mean Validation Dice)")
_SPLIT = re.compile(r"This split has (\d+) training and (\d+) validation cases")


@dataclass(frozen=True)
class Doubt:
    """Why a result may not be of the split, plans and data that are there now."""

    text: str
    certain: bool = True
    """False where there is too little to judge by; the result is then only marked."""


def newer_training(folder: Path) -> str:
    """Say why the result in a fold's folder is of an earlier training than the last; empty if it is not.

    Deleted checkpoints or logs are no reason, and neither is a validation that was repeated with --val or --c.
    """
    events = _events(_log(folder))
    if "validated" in events:
        # Checkpoints say nothing more: --c saves the final one anew before it validates again.
        epochs = events[len(events) - events[::-1].index("validated") :]
        return f"a newer training is at epoch {epochs[-1]} and was not validated" if epochs else ""
    final, latest, summary = (folder / name for name in (FINAL, LATEST, "validation/summary.json"))
    if latest.is_file():  # nnU-Net removes it at the end of a training
        return f"{LATEST} is of a training that was not finished, so the result is of an earlier one"
    with suppress(OSError):
        if final.stat().st_mtime > summary.stat().st_mtime + LATE_SECONDS:
            return f"{FINAL} is newer than the result"
    return ""


def changed_since(folder: Path, dataset: str, fold: str, validated: Sequence[str]) -> Doubt | None:
    """Say what has changed since a fold was trained; None if nothing is known to have.

    `validated` are the cases of its result, empty if they are not known or there is none. Only what is below
    nnUNet_preprocessed can be compared.
    """
    preprocessed = known_folder("nnUNet_preprocessed")
    if preprocessed is None:
        return None
    here = preprocessed / dataset
    checks = (
        _other_split(folder, here, fold, validated),
        _other_plans(folder, here),
        _other_data(folder, here),
        _other_first_stage(folder),
    )
    return next((doubt for doubt in checks if doubt is not None), None)


def _other_split(folder: Path, preprocessed: Path, fold: str, validated: Sequence[str]) -> Doubt | None:
    path = preprocessed / "splits_final.json"
    try:
        split = read_json(path)[int(fold)]
        train, val = set(map(str, split["train"])), set(map(str, split["val"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError):  # fold all, or a fold that nnU-Net makes itself
        return None
    where = f"fold {fold} of {path}"
    if validated and set(validated) != val:
        more, less = sorted(set(validated) - val), sorted(val - set(validated))
        parts = [f"with {_some(more)}"] if more else []
        parts += [f"without {_some(less)}"] if less else []
        # With nothing but the result, or a split that trains on its validation cases, there is little to judge by.
        bare = not any(path.is_file() for path in folder.glob("*"))
        return Doubt(f"it was validated {' and '.join(parts)}, unlike {where}", not (bare and train & val))
    log = _log(folder)
    begun = [match.start() for match in _EPOCH.finditer(log)]
    counts = _SPLIT.findall(log[: begun[-1]]) if begun else []
    if counts and tuple(map(int, counts[-1])) != (len(train), len(val)):
        return Doubt(f"it was trained with a split of {counts[-1][0]} and {counts[-1][1]} cases, unlike {where}")
    return None


def _other_plans(folder: Path, preprocessed: Path) -> Doubt | None:
    _, _, rest = folder.parent.name.partition("__")
    plans, _, configuration = rest.partition("__")
    path = preprocessed / f"{plans}.json"
    try:
        now = resolved(read_json(path)["configurations"], configuration)
        then = _trained_with(folder, configuration)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for key in sorted((now.keys() & then.keys()) - {"data_identifier"}):
        if not _alike(now[key], then[key]):
            return Doubt(f"it was trained with another {key} than that of {configuration} in {path}")
    return None


def _trained_with(folder: Path, configuration: str) -> dict[str, Any]:
    """Return the configuration of this fold, from its debug.json, else that of the last fold trained."""
    with suppress(OSError, ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = ast.literal_eval(read_json(folder / "debug.json")["configuration_manager"])
        if isinstance(found, dict):
            return found
    return resolved(read_json(folder.parent / "plans.json")["configurations"], configuration)


def resolved(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits. Raises KeyError or ValueError for plans that are damaged."""
    chain = [configurations[name]]
    while "inherits_from" in chain[-1]:
        if len(chain) > len(configurations):
            raise ValueError(f"{name} inherits from itself")
        chain.append(configurations[chain[-1]["inherits_from"]])
    return {key: value for part in reversed(chain) for key, value in part.items()}


def _other_data(folder: Path, preprocessed: Path) -> Doubt | None:
    name = "dataset_fingerprint.json"
    try:
        then, now = read_json(folder.parent / name), read_json(preprocessed / name)
    except (OSError, ValueError):
        return None
    return None if _alike(then, now) else Doubt(f"{preprocessed / name} has changed since it was trained")


def _other_first_stage(folder: Path) -> Doubt | None:
    """A cascade learns from predictions of its first stage, so that must not have been trained again later."""
    begun = [match[1] for match in _TIMED_EPOCH.finditer(_log(folder)) if int(match[2]) == 0]
    for first in first_stage_folds(folder.parent) if begun else []:
        epochs = [match[1] for match in _TIMED_EPOCH.finditer(_log(first))]
        if epochs and epochs[-1] > begun[-1]:  # times as nnU-Net writes them sort as text
            return Doubt(f"its first stage was trained again since: {first}")
    return None


def _alike(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, float) or isinstance(second, float):
        with suppress(TypeError):
            return math.isclose(first, second, rel_tol=TOLERANCE) or (first != first and second != second)
    return bool(first == second)


def _some(cases: list[str]) -> str:
    return ", ".join(cases[:3]) + (f" and {len(cases) - 3} more cases" if len(cases) > 3 else "")


def logs_that_begin(folder: Path) -> list[str]:
    """Return the names of the fold's logs that have an epoch 0: those of processes that did not resume."""
    return [name for name, text in _logs(folder) if any(int(match[1]) == 0 for match in _EPOCH.finditer(text))]


def _log(folder: Path) -> str:
    """Return the fold's logs, one after the other."""
    return "\n".join(text for _, text in _logs(folder))


def _logs(folder: Path) -> list[tuple[str, str]]:
    """Return name and text of the fold's logs in their order: each process of nnU-Net writes its own."""
    files = filter(Path.is_file, folder.glob("training_log_*.txt"))
    paths = sorted(files, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    texts = []
    for path in paths:
        with suppress(OSError):
            texts.append((path.name, path.read_text(encoding="utf-8", errors="replace")))
    return texts


def _events(log: str) -> list[int | str]:
    """Return the epochs that began, by their numbers, and "validated" where a validation ended, in their order."""
    events: list[int | str] = []
    for line in log.splitlines():
        if match := _EPOCH.search(line):
            events.append(int(match[1]))
        elif _VALIDATED.search(line):
            events.append("validated")
    return events
