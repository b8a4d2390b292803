"""An output folder belongs to one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import register_after_fork
from pathlib import Path

from nnunet_cpr.files import PREFIX, lock, name_file, remove_unlocked

LOCK_FILE = f"{PREFIX}.lock"
_held: set[int] = set()


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Keep every other process that asks for `folder` out of it, until the block ends or this process dies.

    The folder is made. It is removed again if nothing was written into it. Children that outlive this process keep the
    folder if they inherit `held()`. Yields whether it is locked: on a file system without locks nobody is kept out.

    Raises:
        ValueError: another process has the folder.
        OSError: the folder cannot be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another one")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
    except BaseException as error:  # a stop signal may arrive just now
        remove_unlocked(path)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise name_file(error, folder) from error
        raise
    if descriptor is None:
        raise ValueError(f"{folder} is in use by another process; wait until it has ended, or choose another folder")
    _held.add(descriptor)
    try:
        try:
            os.write(descriptor, b"nnunet-cpr is at work here\n")
        except OSError as error:  # a full disk is noticed now, not after hours of work
            raise name_file(error, folder) from error
        yield bool(lock(descriptor))
    finally:
        _held.discard(descriptor)
        try:  # before the lock falls: a file that others may hold must not be removed
            _remove(path, made)
        except BaseException:  # a stop signal may arrive just now
            _remove(path, made)
            raise
        finally:
            os.close(descriptor)


def _remove(path: Path, made: list[Path]) -> None:
    path.unlink(missing_ok=True)
    _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, inner ones first, that are there and empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def held() -> tuple[int, ...]:
    """Return the descriptors of all locks, to be passed to a child that works in the folders, too (`pass_fds`)."""
    return tuple(_held)


def _lock(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None if another process has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if lock(descriptor) is False:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the process that had it removed the file meanwhile: lock the new one


def _let_go(descriptors: set[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


# A forked worker must not keep the folder when this process is killed.
register_after_fork(_held, _let_go)
