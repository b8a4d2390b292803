"""From a challenge's folder to nnU-Net's raw format: all checked first, then a complete dataset or none."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from nnunet_cpr.images import check_itk_path
from nnunet_cpr.nnunet.paths import needed_folder

FOLDS = 5  # nnU-Net's cross-validation; it needs at least one case a fold


class Convertible(Protocol):
    """A challenge's dataset as found on disk."""

    @property
    def nnunet_name(self) -> str:
        """The folder's name below nnUNet_raw."""

    @property
    def number_of_cases(self) -> int:
        """The training cases that were found."""

    @property
    def number_of_test_cases(self) -> int:
        """The cases without labels that were found."""

    @property
    def published(self) -> int:
        """The training cases that the challenge published."""

    def check(self, processes: int) -> list[str]:
        """Open every file; return what the user should know; ValueError names what cannot be converted."""

    def write(self, folder: Path, link: bool, processes: int) -> None:
        """Write the dataset to `folder`, which does not exist yet. Called after `check`."""


def convert(dataset: Convertible, link: bool, dry_run: bool, processes: int) -> tuple[Path, list[str]]:
    """Check the dataset and write it below nnUNet_raw; return its folder and what the user should know.

    Raises ValueError, before anything is written, when the dataset cannot be converted or its folder is taken.
    """
    target = target_folder(dataset.nnunet_name)
    cautions = _count(dataset) + leftovers(target)
    cautions += dataset.check(processes)
    if not dry_run:
        # Checked again when all is written: another conversion may have taken the place or the number meanwhile.
        with complete_folder(target, lambda: target_folder(dataset.nnunet_name)) as folder:
            dataset.write(folder, link, processes)
    return target, cautions


def leftovers(target: Path) -> list[str]:
    """Say what conversions to this folder have left that were killed. They stay: another one may be going on."""
    return [
        f"{path} is left from a conversion that was killed, if none is going on; delete it"
        for path in sorted(target.parent.glob(f".{glob.escape(target.name)}-*"))
    ]


def target_folder(nnunet_name: str) -> Path:
    """Return the dataset's folder below nnUNet_raw; ValueError if it exists or another dataset has its number."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    target = needed_folder("nnUNet_raw").absolute() / nnunet_name
    check_itk_path(target)
    again = "give another number with -d"
    if os.path.lexists(target):
        raise ValueError(f"{target} exists; delete it to convert again, or {again}")
    number = int(nnunet_name[7:10])
    if others := [str(name) for name in find_candidate_datasets(number) if name != nnunet_name]:
        raise ValueError(f"number {number} is taken by {', '.join(others)} in nnU-Net's folders; {again}")
    return target


@contextmanager
def complete_folder(target: Path, check: Callable[[], object] | None = None) -> Iterator[Path]:
    """Yield the path of a folder to write; it becomes `target` when the block ends well, else it is removed.

    `check` raises where `target` may not be made any more; of several processes one at a time checks and makes it.

    Raises:
        ValueError: somebody else has made `target` meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary / target.name
        with _locked(target.parent):
            if check is not None:
                check()
            if os.path.lexists(target):
                raise ValueError(f"{target} was made by another process meanwhile; delete it or choose another folder")
            (temporary / target.name).rename(target)
    finally:
        try:
            shutil.rmtree(temporary)
        except BaseException:  # a stop signal may arrive just now
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, where its system and file system have such locks."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _count(dataset: Convertible) -> list[str]:
    found = dataset.number_of_cases
    lines = []
    if found != dataset.published:
        lines.append(f"{found} training cases found, {dataset.published} were published; those found are converted")
    if found < FOLDS:
        lines.append(f"nnU-Net's {FOLDS} folds need at least {FOLDS} cases; train with fold all")
    return lines
