"""Whether a study's datasets can be trained: nnU-Net's files of each, checked before anything starts.

To plan a study, the data need not be there yet: what is missing is then no mistake, but what is there is checked.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from nnunet_cpr.batch.study_file import StudyFile
from nnunet_cpr.datasets.small_plans import CONFIGURATION as SMALL
from nnunet_cpr.evaluation.readers.nnunet_results import dataset_name
from nnunet_cpr.evaluation.readers.summary_json import reason_of
from nnunet_cpr.files import read_json
from nnunet_cpr.labels import foreground_labels, read_dataset_json
from nnunet_cpr.nnunet.cascade import CASCADE, FIRST_STAGE, with_first_stages
from nnunet_cpr.nnunet.paths import needed_folder
from nnunet_cpr.nnunet.setup import Setup

PLANNED = ("2d", "3d_fullres", FIRST_STAGE, CASCADE)
PLANNERS = {"nnUNetPlans": "ExperimentPlanner"} | {
    f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")
}
"""nnU-Net's plans and the planner that makes them."""
Named = list[tuple[str, yaml.Node | None]]
"""Names of a study with their lines, None for one that holds because the study says nothing."""


def read_dataset_name(text: str, need_data: bool) -> str:
    """Return nnU-Net's full name of a dataset, or `Dataset004` for the number of one that is needed later only.

    Raises:
        ValueError: there is no such dataset, or its name cannot be used.
    """
    if not need_data and re.fullmatch(r"\d{1,3}", text) and not _is_known(int(text)):
        return f"Dataset{int(text):03d}"
    name = dataset_name(text)
    if not re.fullmatch(r"Dataset\d{3}_[^/]+", name):
        raise ValueError(f"{text} is neither a number nor a name such as Dataset004_Hippocampus")
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Refuse what Snakemake, or a terminal, takes for more than a name."""
    if not name.isprintable() or re.search(r"[/{}]", name):
        raise ValueError(f"{name!r} cannot be used in a batch; a name must be without braces, slashes and line breaks")


def is_missing(dataset: str, plans: str) -> bool:
    """Say whether there is nothing of a dataset that a training could be prepared from."""
    return not (plans_file(dataset, plans).is_file() or _description(dataset).is_file())


def plans_file(dataset: str, plans: str) -> Path:
    """Return where nnU-Net has a dataset's plans."""
    return needed_folder("nnUNet_preprocessed") / dataset / f"{plans}.json"


def check_description(file: StudyFile, node: yaml.Node, dataset: str, plans: Named, need_data: bool) -> None:
    """Note what is wrong with a dataset's dataset.json, at the line of `node`."""
    path = _description(dataset)
    planned = all(plans_file(dataset, name).is_file() for name, _ in plans)
    known = any(plans_file(dataset, name).is_file() or name in PLANNERS for name, _ in plans)
    # A machine may have only the preprocessed data.
    if path.exists() or (need_data and known and not planned):
        _check_description(file, node, path)
    # Trainings read the copy that planning has made.
    copy = needed_folder("nnUNet_preprocessed") / dataset / "dataset.json"
    if copy.exists() and planned:
        _check_description(file, node, copy)


def check_plans(
    file: StudyFile,
    node: yaml.Node,
    dataset: str,
    plans: tuple[str, yaml.Node | None],
    configurations: Named,
    need_data: bool,
) -> None:
    """Note what is wrong with a dataset's plans: at their line, a configuration's, or the dataset's own (`node`)."""
    name, line = plans
    path = plans_file(dataset, name)
    if not path.is_file() and name not in PLANNERS:
        if need_data or _description(dataset).exists():
            file.complain(line or node, f"{path} is missing, and only {', '.join(PLANNERS)} can be made")
        return
    if not path.is_file():
        known = [*PLANNED, SMALL]
    else:
        try:
            planned = read_json(path)["configurations"]
            known = list(planned.keys())
            if broken := {one for one in known if not isinstance(planned[one], dict)} & _needed(configurations):
                raise ValueError(f"{min(broken)} is no mapping")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            file.complain(node, f"{path} cannot be read ({reason_of(error)}); plan {dataset} anew")
            return
        known += [SMALL] if "3d_fullres" in known else []
    there = ", ".join(dict.fromkeys(known))
    for configuration, where in configurations:
        needed = [setup.configuration for setup in with_first_stages([Setup(name, configuration)])]
        if missing := [one for one in needed if one not in known]:
            file.complain(where or node, f"{dataset} has no configuration {missing[-1]}; there are {there}")


def _needed(configurations: Named) -> set[str]:
    """Return what the plans must have for these configurations."""
    setups = with_first_stages([Setup("", configuration) for configuration, _ in configurations])
    return {"3d_fullres" if setup.configuration == SMALL else setup.configuration for setup in setups}


def check_folds(file: StudyFile, dataset: str, folds: list[tuple[str, yaml.Node]]) -> None:
    """Note every fold that the dataset's split does not have, or not as nnU-Net writes it."""
    numbers = [(int(fold), node) for fold, node in folds if fold != "all"]
    if folds and not numbers:
        return  # nnU-Net then reads no split
    path, of_datasets = _splits_file(dataset), file.nodes["datasets"]
    try:
        splits = _read_splits(dataset)
    except (OSError, ValueError) as error:
        file.complain(of_datasets, f"{path} cannot be read ({reason_of(error)})")
        return
    for fold, node in numbers or [(fold, of_datasets) for fold in range(min(5, len(splits)))]:
        if fold >= len(splits):
            text = f"fold {fold} is out of range: {dataset} has {len(splits)} folds, 0 to {len(splits) - 1}"
            file.complain(node, text)
        elif not _is_split(splits[fold]):
            reason = f'fold {fold} has no "train" and "val", each a list of cases'
            file.complain(of_datasets, f"{path} cannot be read ({reason})")


def number_of_folds(dataset: str) -> int:
    """Return how many folds the dataset's split has, or will have. Raises OSError or ValueError for damage."""
    return len(_read_splits(dataset))


def _read_splits(dataset: str) -> list[Any]:
    path = _splits_file(dataset)
    splits = read_json(path) if path.is_file() else [{"train": [], "val": []}] * 5  # what nnU-Net makes
    if not isinstance(splits, list):
        raise ValueError("it is not a list of folds")
    return splits


def _is_split(split: Any) -> bool:
    parts = [split.get(part) for part in ("train", "val")] if isinstance(split, dict) else [None]
    return all(isinstance(cases, list) and all(isinstance(case, str) for case in cases) for cases in parts)


def _splits_file(dataset: str) -> Path:
    return needed_folder("nnUNet_preprocessed") / dataset / "splits_final.json"


def _is_known(number: int) -> bool:
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    return len(find_candidate_datasets(number)) > 0


def _description(dataset: str) -> Path:
    return needed_folder("nnUNet_raw") / dataset / "dataset.json"


def _check_description(file: StudyFile, node: yaml.Node, description: Path) -> None:
    try:
        content = read_dataset_json(description)
        lacking = [key for key in ("channel_names", "labels", "file_ending") if key not in content]
        if "modality" in content and "channel_names" in lacking:  # its former name, which nnU-Net still takes
            lacking.remove("channel_names")
        if not lacking and not isinstance(content["file_ending"], str):
            raise ValueError("file_ending is no text")
        if not isinstance(content.get("dataset", {}), dict):
            raise ValueError("dataset holds no cases")
        if not lacking:
            _check_labels(content)
    except FileNotFoundError:
        file.complain(node, f"there is no {description}; see nnunet-cpr convert")
    except (OSError, ValueError, TypeError) as error:
        file.complain(node, f"{description} cannot be read ({reason_of(error)})")
    else:
        if lacking:
            file.complain(node, f"{description} lacks {', '.join(lacking)}")


def _check_labels(description: dict[str, Any]) -> None:
    """Refuse labels on which nnU-Net fails after planning, or of which it would drop one."""
    foreground_labels(description)
    if not isinstance(description["labels"].get("background"), int) or description["labels"]["background"] != 0:
        raise ValueError('its labels have no "background": 0, which nnU-Net needs')
