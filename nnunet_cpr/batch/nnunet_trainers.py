"""Which trainers nnU-Net would find, without importing any: that takes seconds and torch."""

import os
import re
from importlib.util import find_spec
from pathlib import Path


def has_trainer(name: str) -> bool:
    """Say whether some file among nnU-Net's trainers, or below nnUNet_extTrainer, defines a class of that name."""
    spec = find_spec("nnunetv2")
    places = spec.submodule_search_locations if spec else None
    folders = [Path(place) / "training" / "nnUNetTrainer" for place in places or []]
    extra = os.environ.get("nnUNet_extTrainer", "")  # noqa: SIM112 (nnU-Net's name)
    folders += [Path(place) for place in extra.split(os.pathsep) if place]
    definition = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    return any(definition.search(_text(file)) for folder in folders for file in folder.rglob("*.py"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # an editor's lock file, another link to nowhere, a folder, or not readable
        return ""
