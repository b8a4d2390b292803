"""Which classes nnU-Net can find among its own trainers and in nnUNet_extTrainer, told without importing them."""

import re
from importlib.util import find_spec
from pathlib import Path

from nnunet_cpr.nnunet.paths import external_trainers

_DEFINITION = re.compile(rb"^class ([A-Za-z_]\w*)\b", re.MULTILINE)


def trainer_sources() -> dict[str, Path]:
    """Return the file that defines each class below nnU-Net's trainers and the folders of nnUNet_extTrainer.

    Of several definitions the first counts, as for nnU-Net. Files that cannot be read, such as an editor's lock, are
    passed over.
    """
    folders = [nnunet_folder(), *external_trainers()]
    sources: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")) if folder else []:
            try:
                content = file.read_bytes()
            except OSError:
                continue
            for name in _DEFINITION.findall(content):
                sources.setdefault(name.decode(), file)
    return sources


def nnunet_folder() -> Path | None:
    """Return the folder of nnU-Net's own trainers, None if nnU-Net is not installed."""
    spec = find_spec("nnunetv2")
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "training" / "nnUNetTrainer" if places else None


def defining_file(name: str) -> Path | None:
    """Return the file that defines a class of that name where nnU-Net looks for trainers."""
    return trainer_sources().get(name)
