"""Which file defines a trainer, told without importing it, and the trainers that nnU-Net gets from us."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_cpr.training.settings import family_of

if TYPE_CHECKING:
    from nnunet_cpr.training.trainer import NamedTrainer


def defining_file(name: str) -> Path | None:
    """Return the file below nnU-Net's trainers, or a folder of nnUNet_extTrainer, that defines a class of that name.

    Files that cannot be read, such as an editor's lock, are passed over.
    """
    spec = find_spec("nnunetv2")
    places = spec.submodule_search_locations if spec else None
    folders = [Path(place) / "training" / "nnUNetTrainer" for place in places or []]
    extra = os.environ.get("nnUNet_extTrainer", "")  # noqa: SIM112 (nnU-Net's name)
    folders += [Path(place) for place in extra.split(os.pathsep) if place.strip()]
    definition = re.compile(rf"^class {re.escape(name)}\b".encode(), re.MULTILINE)
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            try:
                content = file.read_bytes()
            except OSError:
                continue
            if definition.search(content):
                return file
    return None


def trainer_attribute(name: str) -> "type[NamedTrainer]":
    """Return our trainer of that name, as `__getattr__` of a module in which nnU-Net looks for it.

    A trainer of the user's own keeps its name, even if it is also one of ours.

    Raises:
        AttributeError: it is not one of our trainers, or a file of nnU-Net's or of the user's defines it.
    """
    if family_of(name) is None:
        raise AttributeError(name)
    from nnunet_cpr.training.trainer import explain_once, trainer_class

    file = defining_file(name)
    try:
        trainer = trainer_class(name)
    except ValueError as error:
        if file is None:
            explain_once(f"nnunet-cpr has no such trainer. {error}")
        raise AttributeError(str(error)) from None
    if file is not None:
        explain_once(f"{name} is taken from {file}; nnunet-cpr has a trainer of that name, too, and leaves it to you.")
        raise AttributeError(name)
    return trainer
