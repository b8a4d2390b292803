"""Checkpoints that survive a kill at any moment: written whole, checked when read, never thrown away for nothing."""

import errno
import os
import pickle
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from nnunet_cpr.files import name_file, write_whole

FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"  # nnU-Net's names
PREVIOUS = "checkpoint_previous.pth"
RESUME_ORDER = (FINAL, LATEST, PREVIOUS, BEST)  # nnU-Net's order, and the one before the latest

_NUMBERS = (np.float64(), np.float32(), np.float16(), np.int64(), np.int32(), np.bool_())
IN_LOGS: list[Any] = [_NUMBERS[0].__reduce__()[0], np.dtype, *(type(number.dtype) for number in _NUMBERS)]
"""What torch must know to load NumPy's numbers, of which nnU-Net's logs consist."""
_FOLDER = 0x10  # MS-DOS's attribute, which zip's table of contents keeps


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write a checkpoint to, which becomes `path` once it is whole and on the disk.

    A new `checkpoint_latest.pth` leaves the one before it as `checkpoint_previous.pth`. Raises OSError if it cannot be
    written; the old file is then as it was.
    """
    try:
        with write_whole(path) as temporary:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave an empty file under the final name
            if path.name == LATEST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))
    except RuntimeError as error:
        # torch's zip writer covers the reason, say a full disk, with an error about positions in the file
        if isinstance(error.__context__, OSError):
            raise name_file(error.__context__, path) from None
        raise


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, None if it is intact.

    torch checks no checksums: it loads flipped bits as weights. An error that is not the file's fault is raised.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (record := archive.testzip()) is not None:
                return f"the checksum of its record {record} does not match"
            if any(record.external_attr & _FOLDER for record in archive.infolist()):
                return "its table of contents calls a record a folder"  # torch would take whatever is in memory
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # zipfile passes over what was put before an archive, torch does not
                return "something else precedes its contents"
    except Exception as error:  # whatever zipfile makes of a damaged table of contents
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to nowhere
            raise
        return str(error) or type(error).__name__
    try:  # mmap: finds every tensor's record without reading it. weights_only: runs nothing that the file brings along
        with torch.serialization.safe_globals(IN_LOGS):
            torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error) and "inline_container" not in str(error):
            raise
        return re.sub(r"^\[.*?\] \. ", "", str(error)).split(". ")[0]
    except (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError):
        pass  # it holds other objects, as it was saved: what they are is for the one who loads it
    return None


def foreign_object(error: pickle.UnpicklingError) -> str:
    """Return the name of what `torch.load` refused to make with `weights_only=True`."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"the object {found[1]}" if found else "objects of unknown kinds"


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, None if there is none, and a sentence for every broken one that was passed over.

    Broken files are kept under another name, so that nothing takes them for good ones or writes over them.
    """
    broken: list[str] = []
    for path in (folder / name for name in RESUME_ORDER):
        if not path.exists():
            continue
        reason = damage(path)
        if reason is None:
            return path, broken
        kept = set_aside(path, "broken")
        broken.append(f"{path.name} is broken ({reason}) and was renamed to {kept.name}.")
    return None, broken


def set_aside(path: Path, why: str) -> Path:
    """Rename a checkpoint so that nnU-Net no longer sees it; returns its new path."""
    return path.replace(path.with_name(f"{path.name}.{why}"))


class Pace:
    """How often to save: whenever that keeps the time spent on saving below a share of all time."""

    SHARE = 0.02

    def __init__(self) -> None:
        self._cost = 0.0
        self._last = -float("inf")

    def due(self) -> bool:
        """Whether enough time has passed since the last save, given how long it took."""
        return (time.monotonic() - self._last) * self.SHARE >= self._cost

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time a save."""
        begin = time.monotonic()
        yield
        self._last = time.monotonic()
        self._cost = self._last - begin
