"""The commands whose odd inputs are tried: each with its worlds and oddities."""

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import odd_compare
from odd_texts import FOR_ALL, FOR_OUTPUT, FOR_YAML
from odd_worlds import Oddity, World, oddities


@dataclass(frozen=True)
class Command:
    """A command, what makes its worlds, and what may be odd in them."""

    name: str
    make: Callable[[Path, random.Random], World]
    oddities: list[Oddity]


def import_everything() -> None:
    """Import what commands import, so that a fork need not."""
    import matplotlib.backends.backend_agg
    import monai.metrics.surface_dice
    import nnunetv2.evaluation.evaluate_predictions
    import nnunetv2.imageio.reader_writer_registry
    import SimpleITK  # noqa: F401
    import statsmodels.stats.multitest
    import surface_distance  # noqa: F401
    import torch

    import nnunet_cpr.cli
    import nnunet_cpr.evaluation.comparison
    import nnunet_cpr.evaluation.folders
    import nnunet_cpr.evaluation.report
    import nnunet_cpr.evaluation.surface  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # or every child would look through all that is imported


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "compare --pred",
            odd_compare.Folders,
            [
                *(one for one in oddities(odd_compare) if one.__name__ not in odd_compare.OF_TRAININGS),
                *FOR_ALL, *FOR_OUTPUT, *FOR_YAML,
            ],
        ),
        Command(
            "compare -tr",
            odd_compare.Trainings,
            [
                *(one for one in oddities(odd_compare) if one.__name__ not in odd_compare.OF_FOLDERS),
                *FOR_ALL, *FOR_OUTPUT, *FOR_YAML,
            ],
        ),
    )
}  # fmt: skip
