"""Which runs differ in their seed only, and what the settings that they have are called."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.settings import applicable_only

from nnunet_cpr.labels import escaped
from nnunet_cpr.optim.bounds import RULES
from run_comparison.runs import Run

NO_DIFFERENCE = (
    "seed", "log_every", "eval_every", "trace_every", "checkpoint_every", "workers", "accumulate", "pretrained",
)  # fmt: skip
"""What the result of a training does not depend on, but for chance; a pretrained model has a checksum in `data`."""
MEASUREMENT = (
    "data", "val_share", "eval_sequences", "context", "modulus", "train_share", "old_data", "questions",
    "val_questions", "test", "old_text", "old_sequences",
)  # fmt: skip
"""What metrics are measured on."""
_NAMED_FIRST = ("optimizer", "weight_decay", "kappa_init_method", "kappa_init_param")
_OF_SOME_OPTIMIZERS = frozenset(applicable_only(()))
_TEMPLATES = {"max_steps": "{} steps", "kappa_update": "mu {}", "reg_function": "R {}"}
Essence = dict[str, Any]


def name_settings(runs: Sequence[Run]) -> list[str]:
    """Return the name of each run's setting: optimizer and regularization, then what else differs between settings.

    What some optimizers only have (momentum) differs where two that have it differ; all else where it differs at all.

    Raises:
        ValueError: two runs have the same setting and seed.
    """
    essences = _essences(runs)
    names = [_name(essence, _differing(essences)) for essence in essences]
    seen: dict[tuple[str, int], Path] = {}
    for run, name in zip(runs, names, strict=True):
        if (name, run.seed) in seen:
            other = seen[name, run.seed]
            raise ValueError(f"{other} and {run.folder} are both {name} with seed {run.seed}; leave one out")
        seen[name, run.seed] = run.folder
    return names


def different_measurements(runs: Sequence[Run]) -> list[str]:
    """Return the settings that decide what is measured and are not the same in all runs."""
    essences = _essences(runs)
    return [key for key in MEASUREMENT if len({json.dumps(essence.get(key)) for essence in essences}) > 1]


def number(value: float) -> str:
    """Return a number as short as it can be without becoming another."""
    if isinstance(value, int) or value.is_integer():
        return str(int(value))
    return short if float(short := f"{value:g}") == value else repr(value)


def rule_title(rule: str) -> str:
    """Return the paper's name of a bound rule; a run may be of a version that has other rules."""
    return RULES[rule].title if rule in RULES else rule


def _essences(runs: Sequence[Run]) -> list[Essence]:
    """What each run's result depends on; None for what its optimizer does not have is left out."""
    labels = _data_labels(runs)
    essences = []
    for run, label in zip(runs, labels, strict=True):
        kept = {key: value for key, value in run.settings.items() if key not in NO_DIFFERENCE}
        kept = {key: value for key, value in kept.items() if not (key in _OF_SOME_OPTIMIZERS and value is None)}
        essences.append({**kept, "data": label})
    return essences


def _data_labels(runs: Sequence[Run]) -> list[str]:
    """The name of the file or folder of each run's data, with a checksum where one name stands for different data."""
    identities = []
    for run in runs:
        path = run.settings.get("data")
        label = "embedded" if path is None else Path(path).name
        record = {key: value for key, value in run.data.items() if key != "source"}
        identities.append((label, json.dumps([record, None if "sha256" in record else label], sort_keys=True)))
    labels: dict[str, str] = {}  # the same data may lie elsewhere under another name
    for label, identity in identities:
        labels.setdefault(identity, label)
    shared = defaultdict(set)
    for identity, label in labels.items():
        shared[label].add(identity)
    for label, several in shared.items():
        if len(several) > 1:
            labels |= {i: f"{label} ({hashlib.sha256(i.encode()).hexdigest()[:6]})" for i in several}
    return [labels[identity] for _, identity in identities]


def _differing(essences: Sequence[Essence]) -> list[str]:
    families = defaultdict(list)
    for essence in essences:
        families[essence["optimizer"], essence.get("kappa_init_method")].append(essence)

    def several(key: str, group: Sequence[Essence], absent_too: bool) -> bool:
        return len({json.dumps(e.get(key)) for e in group if absent_too or key in e}) > 1

    keys = dict.fromkeys(key for essence in essences for key in essence if key not in _NAMED_FIRST)
    return [
        key
        for key in keys
        if several(key, essences, absent_too=key not in _OF_SOME_OPTIMIZERS)
        or any(several(key, family, absent_too=True) for family in families.values())
    ]


def _name(essence: Essence, differing: Sequence[str]) -> str:
    parts = [essence["optimizer"]]
    if "weight_decay" in essence:
        parts.append(f"wd {number(essence['weight_decay'])}")
    if rule := essence.get("kappa_init_method"):
        parts.append(rule_title(rule))
    if "kappa_init_param" in essence:
        parts.append(number(essence["kappa_init_param"]))
    others = [_part(key, essence.get(key)) for key in differing if key in essence or key not in _OF_SOME_OPTIMIZERS]
    return escaped(", ".join([" ".join(parts), *others]))


def _part(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no {key}"
    if isinstance(value, list):
        value = "/".join(map(str, value))
    elif isinstance(value, (int, float)):
        value = number(value)
    return _TEMPLATES.get(key, key + " {}").format("none" if value is None else value)
