"""What a study is, and whether it can be run: everything is checked before anything starts. Imports no torch."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from nnunet_cpr.batch.grid import read_grid
from nnunet_cpr.batch.held_out import test_set_mistakes
from nnunet_cpr.batch.study_data import (
    check_description,
    check_folds,
    check_name,
    check_plans,
    is_missing,
    read_dataset_name,
)
from nnunet_cpr.batch.study_file import StudyFile, read_study_file
from nnunet_cpr.evaluation.readers.starting_weights import checksum
from nnunet_cpr.files import user_path
from nnunet_cpr.labels import printable
from nnunet_cpr.nnunet.cascade import CASCADE, with_first_stages
from nnunet_cpr.nnunet.paths import FOLDERS, known_folder, needed_folder
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.nnunet.trainer_sources import defining_file
from nnunet_cpr.training.settings import family_of, parse

KEYS = ["datasets", "configuration", "plans", "trainers", "grid", "folds", "seeds", "baseline", "test_set", "surface",
        "tolerance", "device", "gpus_per_training", "pretrained_weights", "train_arguments", "output"]  # fmt: skip
ARGUMENTS = ("--npz", "--val_best")
"""Of nnUNetv2_train: those that make sense for every training of a study and are not set by it."""
DEFAULT_FOLDS = ["0", "1", "2", "3", "4"]


@dataclass(frozen=True)
class Study:
    """Datasets x plans x configurations x trainers x seeds x folds, and how to compare the trainers."""

    path: Path
    datasets: list[str]
    """nnU-Net's full names."""
    configurations: list[str]
    plans: list[str]
    trainers: dict[str, list[str]]
    """The name shown, and nnU-Net's names: one for each seed."""
    folds: list[str]
    baseline: str
    surface: bool
    tolerance: float
    """Of NSD, in mm."""
    device: str
    train_arguments: list[str]
    output: Path
    """Where logs, records and the report are."""
    test_set: bool = False
    """Whether the folds of each trainer are to predict imagesTs together, and that is compared with labelsTs."""
    gpus_per_training: int = 1
    pretrained_weights: str = ""
    """The file that every training begins with, empty for random weights."""
    weights_sha256: str | None = ""
    """Its checksum, empty without such a file; None if it is not there, to look at a study only."""

    @property
    def setups(self) -> list[Setup]:
        """All plans with all configurations. Trainers are compared within each."""
        return [Setup(plans, configuration) for plans in self.plans for configuration in self.configurations]

    @property
    def trained_setups(self) -> list[Setup]:
        """The setups, and the first stages of cascades, which have to be trained before them."""
        return with_first_stages(self.setups)


def read_study(path: Path, need_data: bool = True) -> Study:
    """Read and check a study.

    Args:
        path: The study's file.
        need_data: False to look at a study whose datasets may not be there yet.

    Raises:
        ValueError: with one line for each mistake: file, line number, what is wrong.
    """
    if unset := [variable for variable in FOLDERS if known_folder(variable) is None]:
        raise ValueError(f"{', '.join(unset)} not set: export them as for every command of nnU-Net")
    for variable in FOLDERS:
        if (folder := needed_folder(variable)).exists() and not folder.is_dir():
            raise ValueError(f"{variable} is {folder}, which is not a folder")
    file = read_study_file(path)
    file.check_keys(KEYS)
    for key in ("datasets", "trainers"):
        if key not in file.nodes:
            file.complain(None, f"the key {key} is missing")
    plans = file.listed("plans", _name_of_file) or [("nnUNetPlans", None)]
    configurations = file.listed("configuration", _name_of_file) or [("3d_fullres", None)]
    mistakes = len(file.mistakes)
    trainers = _trainers(file)
    baseline = printable(file.text("baseline", next(iter(trainers), "")))
    if trainers and baseline not in trainers and len(file.mistakes) == mistakes:
        file.complain(file.nodes["baseline"], f"the baseline {baseline} is not among {', '.join(trainers)}")
    datasets = file.listed("datasets", lambda text: read_dataset_name(text, need_data))
    folds = file.listed("folds", _fold)
    test_set = file.choice("test_set", {"true": True, "false": False}, False)
    for dataset, node in datasets:
        check_description(file, node, dataset, plans, need_data)
        for one in plans:
            check_plans(file, node, dataset, one, configurations, need_data)
        check_folds(file, dataset, folds)
        if test_set and (need_data or not any(is_missing(dataset, one) for one, _ in plans)):
            _check_test_set(file, dataset)
    weights, weights_sha256 = _pretrained_weights(file, need_data)
    if weights and (len(plans) * len(configurations) > 1 or configurations[0][0] == CASCADE):
        file.complain(file.nodes["pretrained_weights"], "pretrained_weights fit the network of one configuration only")
    device = file.choice("device", {device: device for device in ("cuda", "cpu", "mps")}, "cuda")
    surface = file.choice("surface", {"true": True, "false": False}, False)
    study = Study(
        path=path,
        datasets=[dataset for dataset, _ in datasets],
        configurations=[configuration for configuration, _ in configurations],
        plans=[name for name, _ in plans],
        trainers=trainers,
        folds=[fold for fold, _ in folds] or DEFAULT_FOLDS,
        baseline=baseline,
        surface=surface,
        tolerance=_tolerance(file, surface),
        device=device,
        train_arguments=[argument for argument, _ in file.listed("train_arguments", _argument)],
        output=_output(file),
        test_set=test_set,
        gpus_per_training=_gpus_per_training(file, device),
        pretrained_weights=weights,
        weights_sha256=weights_sha256,
    )
    file.raise_mistakes()
    return study


def _trainers(file: StudyFile) -> dict[str, list[str]]:
    """Return nnU-Net's names, one for each seed, by the name shown."""
    seeds = [seed for seed, _ in file.listed("seeds", _seed)]
    if "trainers" not in file.nodes:
        return {}
    grid = read_grid(file)
    found: dict[str, list[str]] = {}
    for written, nodes in file.named("trainers").items():
        for filled, trainers in grid.expand(file, written, nodes):
            shown = printable(filled)
            if shown in found:
                file.complain(nodes[0], f"trainers has {shown} twice")
            else:
                others = [run for runs in found.values() for run in runs]
                found[shown] = _with_seeds(file, trainers, seeds, others)
    grid.complain_of_unused(file)
    return found


def _with_seeds(
    file: StudyFile, trainers: list[tuple[str, yaml.Node]], seeds: list[int], others: list[str]
) -> list[str]:
    """Return nnU-Net's names of the trainers with each seed, as far as they are trainers and not among the others."""
    found: list[str] = []
    for trainer, node in trainers:
        if seeds and not family_of(trainer):
            file.complain(node, f"{trainer} takes no seed; seeds are for the trainers of `nnunet-cpr trainers`")
            continue
        try:
            for run in [f"{trainer}_seed{seed}" for seed in seeds] or [trainer]:
                _check_trainer(run)
                if run in found or run in others:
                    raise ValueError(f"{run} is there twice")
                found.append(run)
        except ValueError as error:
            file.complain(node, str(error))
    return found


def _check_trainer(name: str) -> None:
    if defining_file(name) is not None:  # first, as somebody's own trainer may begin like one of ours
        return
    if not family_of(name):
        raise ValueError(f"there is no trainer {name}, neither in nnU-Net nor in nnUNet_extTrainer")
    settings = parse(name)
    settings.check_length(settings.total_steps)


def _check_test_set(file: StudyFile, dataset: str) -> None:
    raw, preprocessed = (needed_folder(name) / dataset for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    for mistake in test_set_mistakes(raw, preprocessed):
        file.complain(file.nodes["test_set"], f"{dataset}: {mistake}")


def _name_of_file(text: str) -> str:
    check_name(text)
    return text


def _fold(text: str) -> str:
    if text != "all" and not text.isdecimal():
        raise ValueError(f"the fold {text} is neither a number nor all")
    if len(text) > 9:
        raise ValueError(f"the fold {text[:9]}... is too large")
    return str(int(text)) if text.isdecimal() else text


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"the seed {text} is not a whole number")
    if len(text) > 10:
        raise ValueError(f"the seed {text[:10]}... is too large")
    return int(text)


def _argument(text: str) -> str:
    if text not in ARGUMENTS:
        raise ValueError(f"{text} cannot be passed on; of nnUNetv2_train's arguments there are {', '.join(ARGUMENTS)}")
    return text


def _tolerance(file: StudyFile, surface: bool) -> float:
    node, text = file.nodes.get("tolerance"), file.text("tolerance", "1")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if node and not surface:
        file.complain(node, "the tolerance is that of NSD, which needs surface: true")
    elif not 0 < value < math.inf:
        file.complain(node, f"tolerance is {text}, but must be a number above 0, in mm")
    return value


def _gpus_per_training(file: StudyFile, device: str) -> int:
    node, text = file.nodes.get("gpus_per_training"), file.text("gpus_per_training", "1")
    if not re.fullmatch(r"0*[1-9]\d{0,3}", text):
        file.complain(node, f"gpus_per_training is {text}, but must be a whole number above 0")
        return 1
    if int(text) > 1 and device != "cuda":
        file.complain(node, f"gpus_per_training means nothing with device: {device}")
    return int(text)


def _pretrained_weights(file: StudyFile, need_data: bool) -> tuple[str, str | None]:
    """Return path and checksum of the weights, a relative path being meant from the study's folder."""
    given = file.text("pretrained_weights", "")
    if not given:
        return "", ""
    try:
        path = user_path(given, file.path.parent).resolve()
        return str(path), checksum(path) if need_data or path.exists() else None
    except (OSError, ValueError) as error:
        file.complain(file.nodes["pretrained_weights"], f"pretrained_weights: {error}")
        return "", ""


def _output(file: StudyFile) -> Path:
    given = file.text("output", "")
    if given:
        try:
            return user_path(given, file.path.parent).resolve()
        except ValueError as error:
            file.complain(file.nodes["output"], f"output: {error}")
    return needed_folder("nnUNet_results").resolve() / "studies" / file.path.stem
