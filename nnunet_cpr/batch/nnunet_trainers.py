"""Which trainers nnU-Net would find, without importing any: that takes seconds and torch."""

import os
import pkgutil
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def has_trainer(name: str) -> bool:
    """Say whether some module among nnU-Net's trainers, or of nnUNet_extTrainer, defines a class of that name."""
    spec = find_spec("nnunetv2")
    places = spec.submodule_search_locations if spec else None
    folders = [Path(place) / "training" / "nnUNetTrainer" for place in places or []]
    extra = os.environ.get("nnUNet_extTrainer", "")  # noqa: SIM112 (nnU-Net's name)
    folders += [Path(place) for place in extra.split(os.pathsep) if place]
    definition = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    return any(definition.search(_text(file)) for folder in folders for file in _modules(folder))


def _modules(folder: Path) -> Iterator[Path]:
    """Yield the modules that nnU-Net's own search sees: in packages too, but no editor's lock files."""
    for module in pkgutil.iter_modules([str(folder)]):
        if module.ispkg:
            yield from _modules(folder / module.name)
        else:
            yield folder / f"{module.name}.py"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a link to nowhere, not readable, or a compiled module
        return ""
