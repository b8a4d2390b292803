"""What `nnunet-cpr compare` is asked for, from flags or a YAML file, checked. Imports nothing heavy."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from nnunet_cpr import yaml_files
from nnunet_cpr.evaluation.metrics import METRICS, OF_COUNTS
from nnunet_cpr.files import user_path
from nnunet_cpr.labels import printable

EMPTY_POLICIES = ("nan", "0", "1")
LESION_RULES = ("overlap", "brats")
MOST_MILLIMETERS = 1e6
"""Above any distance in an image; a tolerance is below."""

Runs = TypeVar("Runs")


@dataclass(frozen=True)
class Request:
    """One comparison: finished nnU-Net trainings, or plain folders of segmentations."""

    output: Path = Path("comparison")
    datasets: list[str] = field(default_factory=list)
    configuration: str = "3d_fullres"
    plans: str = "nnUNetPlans"
    folds: list[str] = field(default_factory=lambda: ["0", "1", "2", "3", "4"])
    trainers: dict[str, list[str]] = field(default_factory=dict)
    """The name shown, and the runs (seeds, repeats) that it groups."""
    reference: Path | None = None
    predictions: dict[str, Path] = field(default_factory=dict)
    baseline: str = ""
    """Default: the first trainer or prediction."""
    empty: str = "nan"
    """Dice (and NSD) where label and prediction are both empty: nan (left out, as nnU-Net), 0 or 1."""
    missed_hd95: float | None = None
    """HD95 in mm where label or prediction alone is empty; None: it is left out."""
    intersect: bool = False
    skip_missing: bool = False
    """Compare the finished trainings by the cases that all of them have."""
    test_set: bool = False
    """Compare what the fold ensembles of `nnunet-cpr batch` have predicted of the test sets, too."""
    counts: bool = False
    """Precision, recall and volume errors, too, from voxel counts."""
    lesions: list[str] = field(default_factory=list)
    """Labels whose connected components are compared one by one."""
    lesion_rule: str = "overlap"
    """Which predicted lesions belong to which true one: overlap or brats."""
    surface: bool = False
    tolerance: float = 1.0
    """Of NSD, in mm."""
    seed: int = 0
    """Of the bootstrap."""
    margin: dict[str, float] = field(default_factory=dict)
    """By metric: differences up to this mean nothing. Default: those of metrics.py."""
    processes: int = 0
    """0: one a core."""

    @property
    def names(self) -> list[str]:
        """The trainers' or predictions' names, the baseline first."""
        names = list(self.trainers or self.predictions)
        return [self.baseline, *(name for name in names if name != self.baseline)]


def make_request(given: Mapping[str, Any]) -> Request:
    """Check what flags or a YAML file gave, with the keys of :class:`Request`.

    Raises:
        ValueError: an unknown key, a value without meaning, or nothing to compare.
    """
    known = [f.name for f in fields(Request)]
    if unknown := [str(key) for key in given if key not in known]:
        raise ValueError(f"unknown key {unknown[0]}; there are {', '.join(known)}")
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key in ("datasets", "folds", "lesions"):
        if key in values:
            values[key] = [_text(key, value) for value in _listed(values[key])]
    if "folds" in values:
        values["folds"] = [str(int(fold)) if fold.isdecimal() else fold for fold in values["folds"]]
    for key in ("configuration", "plans", "baseline"):
        if key in values:
            values[key] = _text(key, values[key])
    for key in ("output", "reference"):
        if key in values:
            values[key] = user_path(_text(key, values[key]))
    for key in ("intersect", "skip_missing", "test_set", "counts", "surface"):
        if not isinstance(values.get(key, False), bool):
            raise ValueError(f"{key} is {values[key]!r}, but must be true or false")
    if "lesion_rule" in values and not values.get("lesions"):
        raise ValueError("lesion_rule means nothing without the labels: --lesions LABEL ...")
    if values.get("lesion_rule", LESION_RULES[0]) not in LESION_RULES:
        raise ValueError(f"lesion_rule is {values['lesion_rule']}, but must be one of {', '.join(LESION_RULES)}")
    if "empty" in values:
        values["empty"] = str(values["empty"]).lower()
        if values["empty"] not in EMPTY_POLICIES:
            raise ValueError(f"empty is {values['empty']}, but must be one of {', '.join(EMPTY_POLICIES)}")
    if "missed_hd95" in values and not values.get("surface"):
        raise ValueError("missed_hd95 is a value of HD95, which needs --surface")
    for key, least in (("missed_hd95", 0.0), ("tolerance", 0.0), ("seed", 0), ("processes", 0)):
        if key in values:
            values[key] = _number(key, values[key], least)
    if "margin" in values:
        values["margin"] = _margins(values["margin"])
    values["trainers"] = _grouped(values.get("trainers", {}))
    values["predictions"] = _folders(values.get("predictions", {}))
    trainers, predictions = values["trainers"], values["predictions"]
    if bool(trainers) == bool(predictions):
        raise ValueError(
            "name either trainers of nnU-Net (-d DATASET -tr A B), or folders (--reference R --pred A=F ...)"
        )
    if trainers and not values.get("datasets"):
        raise ValueError("-tr needs the datasets: -d 4, or -d Dataset004_Hippocampus")
    ensembles = [run for runs in trainers.values() for run in runs if "+" in run]
    if ensembles and values.get("test_set"):
        raise ValueError(f"{ensembles[0]}: ensembles have no test set here; compare their predictions with --pred")
    if predictions and not values.get("reference"):
        raise ValueError("--pred needs --reference, the folder of the true labels")
    if predictions and (useless := [key for key in _OF_TRAINERS if key in values]):
        raise ValueError(f"{useless[0]} means nothing for folders (--pred)")
    for name in values.get("margin", {}):
        needs = "counts" if name in OF_COUNTS else "lesions" if name.startswith("Lesion") else "surface"
        if name != "Dice" and not values.get(needs):
            raise ValueError(f"there is no {name} to give a margin without --{needs}")
    if "tolerance" in values and not values.get("surface"):
        raise ValueError("the tolerance is that of NSD, which needs --surface")
    names = list(trainers or predictions)
    if len(names) < 2:
        raise ValueError(f"there is nothing to compare {names[0]} with: name two or more")
    if not values.get("baseline"):
        values["baseline"] = names[0]
    values["baseline"] = printable(values["baseline"])
    if values["baseline"] not in names:
        raise ValueError(f"the baseline {values['baseline']} is not among {', '.join(names)}")
    return Request(**values)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the request in a YAML file. Its paths are relative to the file's folder."""
    content = yaml_files.read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys such as datasets and trainers")
    # Names and paths as they are written: YAML takes 027 for an octal number and "on" for true.
    written = yaml_files.read_yaml(path, texts=True)
    for key in _TEXTS:
        text = written.get(key)
        if content.get(key) is not None and text is not None and "<<" not in text:  # texts know no merge keys
            content[key] = text
    with suppress(KeyError, TypeError, ValueError):  # YAML takes 1e-1 for a text
        content["tolerance"] = float(written["tolerance"])
    for key in ("output", "reference"):
        if content.get(key) is not None:
            content[key] = user_path(_text(key, content[key]), path.parent)
    if not isinstance(content.get("predictions", {}), dict):
        raise ValueError(f"{path}: write predictions as NAME: FOLDER")
    if "predictions" in content:
        content["predictions"] = {
            name: user_path(_text(f"predictions, {name}", folder), path.parent)
            for name, folder in content["predictions"].items()
        }
    return content


_OF_TRAINERS = ("datasets", "configuration", "plans", "folds", "skip_missing", "test_set")
_TEXTS = (
    "datasets", "configuration", "plans", "folds", "trainers", "reference", "predictions", "baseline", "output",
    "lesions",
)  # fmt: skip


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(key: str, value: Any) -> str:
    if value is None or not (isinstance(value, (Mapping, list, tuple)) or str(value).strip()):
        raise ValueError(f"{key} is empty")
    if isinstance(value, (Mapping, list, tuple)):
        raise ValueError(f"{key} must be one value, or a list of single values where several can be named")
    return str(value)


def _number(key: str, value: Any, least: float) -> float | int:
    whole = isinstance(least, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
        raise ValueError(f"{key} is {value!r:.80}, but must be a {'whole ' if whole else ''}number of at least {least}")
    if key == "tolerance" and not 0 < value < MOST_MILLIMETERS:
        raise ValueError(f"tolerance is {value!r:.80}, but NSD needs one above 0 and below {MOST_MILLIMETERS:g}, in mm")
    return value


def _margins(value: Any) -> dict[str, float]:
    """Read `0.02`, which is Dice's, or `Dice=0.02 HD95=2` of the flags, and a number or a mapping of YAML."""
    if isinstance(value, Mapping):
        pairs = [(str(name), number) for name, number in value.items()]
    else:
        split = [str(entry).rpartition("=") for entry in _listed(value)]
        pairs = [(name if equals else "Dice", number) for name, equals, number in split]
    found: dict[str, float] = {}
    directed = [name for name, one in METRICS.items() if one.lower_is_better is not None]
    for name, number in pairs:
        if name not in METRICS or METRICS[name].lower_is_better is None:
            raise ValueError(f"there is no metric {name!r:.80} to give a margin; there are {', '.join(directed)}")
        if name in found:
            raise ValueError(f"margin has {name} twice")
        try:
            found[name] = math.nan if isinstance(number, bool) else float(number)
        except (TypeError, ValueError, OverflowError):
            found[name] = math.nan
        most = MOST_MILLIMETERS if METRICS[name].unit else 1
        if not 0 < found[name] < most:
            raise ValueError(f"the margin of {name} is {number!s:.80}, but must be a number above 0 and below {most:g}")
    return found


def _grouped(value: Any) -> dict[str, list[str]]:
    """Read `A`, `NAME=A,B` of the flags, and a list of names or a mapping of YAML."""
    if isinstance(value, Mapping):
        pairs = [
            (str(name), [_text(f"trainers, {name}", run) for run in _listed(runs)]) for name, runs in value.items()
        ]
    else:
        split = [(entry, *entry.partition("=")) for entry in (_text("trainers", entry) for entry in _listed(value))]
        pairs = [(name, runs.split(",")) if equals else (whole, [whole]) for whole, name, equals, runs in split]
    seen: list[list[str]] = []
    for name, runs in pairs:
        if not name.strip() or not all(runs):
            typed = name if runs == [name] else f"{name}={','.join(runs)}"
            raise ValueError(f"cannot read the trainer {typed!r}: write TRAINER, or NAME=TRAINER_seed0,TRAINER_seed1")
        for run in runs:
            models = run.split("+")
            if sorted(models) in seen:
                raise ValueError(f"{run} is named twice")
            if len(models) > 2 or any(model.count(":") > 2 or not all(model.split(":")) for model in models):
                raise ValueError(
                    f"cannot read {run}: write TRAINER, TRAINER:CONFIGURATION or those with :PLANS; A+B is an ensemble"
                )
            seen.append(sorted(models))
    return dict(_named(pairs, "two trainers have the same name"))


def _folders(value: Any) -> dict[str, Path]:
    if isinstance(value, Mapping):
        pairs = [(str(name), str(folder)) for name, folder in value.items()]
    else:
        pairs = []
        for entry in (_text("predictions", entry) for entry in _listed(value)):
            name, equals, folder = entry.partition("=")
            pairs.append((name, folder if equals else ""))
    for name, folder in pairs:
        if not (name.strip() and folder):
            raise ValueError(f"cannot read --pred {name}: write --pred NAME=FOLDER")
    return {name: user_path(folder) for name, folder in _named(pairs, "two predictions have the name")}


def _named(pairs: list[tuple[str, Runs]], complaint: str) -> list[tuple[str, Runs]]:
    """Return the pairs with their names as the report shows them, which must all be different."""
    shown = [(printable(name), value) for name, value in pairs]
    if repeated := [name for name, count in Counter(name for name, _ in shown).items() if count > 1]:
        raise ValueError(f"{complaint} {repeated[0]}")
    return shown
