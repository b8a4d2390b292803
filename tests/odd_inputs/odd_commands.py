"""The commands whose odd inputs are tried: each with its worlds and oddities."""

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import odd_comparisons
import odd_convert
import odd_demo
import odd_folders
import odd_requests
import odd_scripts
import odd_studies
import odd_trainers
import odd_trainings
from odd_texts import FOR_ALL, FOR_OUTPUT, FOR_YAML, narrow_terminal, no_home, odd_variables
from odd_worlds import Oddity, World, oddities


@dataclass(frozen=True)
class Command:
    """A command, what makes its worlds, and what may be odd in them."""

    name: str
    make: Callable[[Path, random.Random], World]
    oddities: list[Oddity]


IMPORTED = (
    "SimpleITK", "compare_runs", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "monai.metrics.surface_dice", "monai.metrics.utils", "nnunet_cpr.batch.trainings", "nnunet_cpr.cli",
    "nnunet_cpr.datasets.conversion", "nnunet_cpr.datasets.heart", "nnunet_cpr.demo.pipeline",
    "nnunet_cpr.evaluation.comparison", "nnunet_cpr.evaluation.readers.prediction_folders",
    "nnunet_cpr.evaluation.report.write",
    "nnunet_cpr.evaluation.surface.compute", "nnunetv2.dataset_conversion.convert_MSD_dataset",
    "nnunetv2.dataset_conversion.generate_dataset_json", "nnunetv2.evaluation.evaluate_predictions",
    "nnunetv2.imageio.reader_writer_registry", "statsmodels.stats.multitest", "surface_distance", "tifffile",
    "train_cifar100", "train_clip", "train_deit", "train_gpt2", "train_grokking", "train_lora",
)  # fmt: skip


def import_everything() -> None:
    """Import what commands import, so that a fork need not."""
    for name in IMPORTED:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # or every child would look through all that is imported


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "compare --pred",
            odd_comparisons.Folders,
            [*oddities(odd_folders), *oddities(odd_requests), *FOR_ALL, *FOR_OUTPUT, *FOR_YAML],
        ),
        Command(
            "compare -tr",
            odd_comparisons.Trainings,
            [*oddities(odd_trainings), *oddities(odd_requests), *FOR_ALL, *FOR_OUTPUT, *FOR_YAML],
        ),
        Command("convert", odd_convert.Convert, [*oddities(odd_convert), *FOR_ALL, *FOR_OUTPUT]),
        Command("trainers", odd_trainers.Trainers, [*oddities(odd_trainers), narrow_terminal, odd_variables]),
        Command(
            "batch --dry-run, status",
            odd_studies.Study,
            [*oddities(odd_studies), no_home, narrow_terminal, odd_variables, *FOR_YAML],
        ),
        Command("compare_runs.py", odd_scripts.Runs, [*odd_scripts.OF_RUNS, *FOR_ALL, *FOR_OUTPUT]),
        Command("train_*.py (settings)", odd_scripts.Settings, [*odd_scripts.OF_SETTINGS, narrow_terminal,
            odd_variables, *FOR_YAML]),
        Command("demo", odd_demo.Demo, [*oddities(odd_demo), *FOR_ALL]),
        Command("convert --inverse", odd_convert.Inverse, [*oddities(odd_convert), *FOR_ALL, *FOR_OUTPUT]),
    )
}  # fmt: skip
