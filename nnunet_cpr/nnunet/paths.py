"""nnU-Net's folders: the one place that reads its environment variables. Imports nothing heavy."""

import os
from pathlib import Path

FOLDERS = {
    "nnUNet_raw": "raw datasets",
    "nnUNet_preprocessed": "preprocessed datasets",
    "nnUNet_results": "trained models",
}
"""The variables, and what nnU-Net keeps in each folder."""


def known_folder(variable: str) -> Path | None:
    """Return the folder that one of nnU-Net's variables names, None if it is not set."""
    value = os.environ.get(variable)
    return Path(value) if value else None


def needed_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's variables names.

    Raises:
        ValueError: it is not set.
    """
    folder = known_folder(variable)
    if folder is None:
        raise ValueError(f"{variable} is not set: export {variable}=FOLDER, where nnU-Net keeps {FOLDERS[variable]}")
    return folder


def writable_results() -> Path:
    """Return nnU-Net's folder of trained models, made if it is not there.

    Raises:
        ValueError: it is not set, cannot be made, or cannot be written. nnU-Net itself would fail in `makedirs`.
    """
    folder = needed_folder("nnUNet_results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"nnUNet_results is {folder}, which cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"nnUNet_results is {folder}, which is not writable")
    return folder


def external_trainers() -> list[Path]:
    """Return the folders of nnUNet_extTrainer, in which nnU-Net looks for trainers after its own."""
    folders = os.environ.get("nnUNet_extTrainer", "")  # noqa: SIM112 (nnU-Net's name)
    return [Path(folder) for folder in folders.split(os.pathsep) if folder.strip()]
