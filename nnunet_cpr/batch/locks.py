"""Locks that fall with the process that holds them, whatever kills it: flock on a file that stays."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 2.0


def take(path: Path, wait: bool = True) -> int | None:
    """Lock the file and return its descriptor, which a child may inherit; None if it is held and not waited for.

    Raises:
        OSError: the file cannot be made, it is a link, or its file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        with suppress(OSError):
            os.utime(descriptor)  # a program that cleans /tmp removes old files, even if they are locked
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise OSError(f"{path} cannot be locked ({error.strerror}); its file system must support flock") from error


def take_some_of(paths: Sequence[Path], number: int, guard: Path, say_waiting: Callable[[], None]) -> dict[int, int]:
    """Lock the first free files, waiting until there are so many; return their indices and descriptors.

    None is held while waiting, so two who wait for several cannot block each other. Whoever looks for free files holds
    the lock `guard`, or two could go on taking half of what each of them needs.
    """
    said = False
    while True:
        taken: dict[int, int] = {}
        with _held(guard):
            for index, path in enumerate(paths):
                descriptor = take(path, wait=False) if len(taken) < number else None
                if descriptor is not None:
                    taken[index] = descriptor
            if len(taken) == number:
                return taken
            for descriptor in taken.values():
                os.close(descriptor)
        if not said:
            say_waiting()
            said = True
        time.sleep(POLL_SECONDS)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    descriptor = take(path)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Say whether some process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not disturb each other
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
