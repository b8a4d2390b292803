"""The class behind each trainer's name, and CPR on top of any trainer."""

import importlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, wraps
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import nn

from nnunet_cpr.nnunet.trainer_sources import defining_file, nnunet_folder
from nnunet_cpr.training.on_top import TrainerOnTop
from nnunet_cpr.training.precision import in_bfloat16
from nnunet_cpr.training.settings import ON, TrainerSettings, parse
from nnunet_cpr.training.trainer import NamedTrainer


@cache
def trainer_class(name: str) -> type[NamedTrainer]:
    """Return the trainer of that name, always the same class. Raises ValueError, saying why, if there is none."""
    settings = parse(name)
    return _make_class(settings, _find_base(name, settings.base) if settings.base else None)


def with_cpr(trainer: type[nnUNetTrainer], parts: str = "", *, family: str = "nnUNetTrainerCPR") -> type[NamedTrainer]:
    """Return a trainer that is `trainer`, but for its optimizer and what the parts of the name say.

    What `trainer` decides stays: its learning rate, schedule, epochs, augmentation, loss, network. nnU-Net's commands
    find the same class by its name, `nnUNetTrainerCPR_on_<trainer>_<parts>`, if they can find `trainer` by its own.

    Args:
        trainer: nnU-Net's trainer, one of its variants, or one of your own. Not one of ours.
        parts: of a trainer's name, joined by underscores; see `nnunet-cpr trainers`.
        family: "nnUNetTrainerCPR", "nnUNetTrainerAdamCPR", or, for a baseline on the same trainer, "nnUNetTrainerSGD"
            or "nnUNetTrainerAdamW".

    Raises:
        ValueError: the parts cannot be read, or this trainer cannot be combined with a family.

    Examples:
        >>> from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
        >>> from nnunet_cpr.training import with_cpr
        >>> with_cpr(nnUNetTrainerDA5, "ws2000").__name__
        'nnUNetTrainerCPR_on_nnUNetTrainerDA5_ws2000'
    """
    name = f"{family}{ON}{trainer.__name__}" + (f"_{parts}" if parts else "")
    return _make_class(parse(name, base=trainer.__name__), trainer)


def _make_class(settings: TrainerSettings, base: type[nnUNetTrainer] | None) -> type[NamedTrainer]:
    if base is not None:
        _check_base(settings.name, base)
    members: dict[str, Any] = {
        "__doc__": f"nnU-Net trainer; see `nnunet-cpr trainers {settings.name}`.",
        "settings": settings,
    }
    if settings.bf16:
        members["build_network_architecture"] = staticmethod(_in_bfloat16(base or nnUNetTrainer))
    return type(settings.name, (TrainerOnTop, base) if base else (NamedTrainer,), members)


def _check_base(name: str, base: type) -> None:
    if not issubclass(base, nnUNetTrainer):
        raise ValueError(f"{name}: {base.__name__} is not a trainer; it does not inherit from nnUNetTrainer")
    if issubclass(base, NamedTrainer):
        raise ValueError(f"{name}: {base.__name__} is one of nnunet-cpr's own trainers already, or inherits from one")


def _find_base(name: str, base: str) -> type[nnUNetTrainer]:
    """Return the class as nnU-Net would find it, without the lines that its search prints."""
    file, folder = defining_file(base), nnunet_folder()
    try:
        if file is not None and folder is not None and file.is_relative_to(folder):
            # At once: the search would import every file of the folder before this one.
            module = ".".join(file.relative_to(folder).with_suffix("").parts)
            return getattr(importlib.import_module(f"nnunetv2.training.nnUNetTrainer.{module}"), base)  # type: ignore[no-any-return]
        with redirect_stdout(io.StringIO()):
            return recursive_find_trainer_class_by_name(base)  # type: ignore[no-any-return]
    except (ImportError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{name}: {base} cannot be imported from {file}: {error}") from error


def _in_bfloat16(base: type[nnUNetTrainer]) -> Callable[..., nn.Module]:
    """Return the base's `build_network_architecture` with a network in bfloat16, so prediction runs as validation."""

    @wraps(base.build_network_architecture)  # nnU-Net looks at its parameters' names
    def build_network_architecture(*args: Any, **kwargs: Any) -> nn.Module:
        return in_bfloat16(base.build_network_architecture(*args, **kwargs))

    return build_network_architecture


@cache
def explain_once(reason: str) -> None:
    """Print a line, once in a process: nnU-Net asks for a trainer several times."""
    print(reason)
