"""What all our commands and scripts share as processes: how they end, and what they write to the terminal.

A command ends with one line and an exit code: 0; 2 for a user's mistake, or where memory does not suffice; 130 after
Ctrl-C; 128 + N when stopped by signal N. What a terminal or pipe cannot show does not stop a command, nor does a reader
who goes away.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from nnunet_cpr.files import name_file
from nnunet_cpr.labels import escaped

ADVICE = "free some memory, use fewer processes, or a machine with more"
_OUT_OF_MEMORY = (
    "not enough memory",  # torch on Windows
    "can't allocate memory",  # torch elsewhere
    "cannot allocate memory",  # the operating system
    "out of memory",  # CUDA
    "failed to allocate memory",  # ITK
    "bad_alloc",  # C++
    "failed to map segment",  # the loader of libraries
)
_AROUND = 100
"""Characters on each side of what is not text: enough for the name of a file, and not the whole table that holds it."""
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StoppedBySignal(SystemExit):
    """A stop signal arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def run_command(program: str, work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Do a command's work and return its exit code; what went wrong leaves as one line on stderr.

    SIGTERM and a closed terminal end the work as an exception does, so that files and processes are cleared up.
    """
    with _tolerant_output():
        try:
            with _stop_signals():
                code = work()
                _flush()
                return code
        except UnicodeEncodeError as error:  # a file's name that is not UTF-8, which pandas refuses, for one
            where = error.object[max(0, error.start - _AROUND) : error.start + _AROUND]
            text, code = f"error: {where!r} is not text in {error.encoding}; rename the file", 2
        except (ValueError, OSError) as error:
            text, code = f"error: {error}", 2
        except StoppedBySignal as stopped:
            text, code = f"stopped by {stopped.name}", int(str(stopped.code))
        except KeyboardInterrupt:
            text, code = interrupted, 130
        except (MemoryError, RuntimeError, ImportError) as error:
            if not is_out_of_memory(error):
                raise
            text, code = f"error: there is not enough memory; {ADVICE}", 2
        if code == 130 and sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has shown ^C
        print("\n".join(escaped(line) for line in f"{program}: {text}".split("\n")), file=sys.stderr)
        return code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what Python, torch, CUDA or a library raises where memory does not suffice."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Raise StoppedBySignal on SIGTERM and SIGHUP, unless they are ignored, as with nohup. Only the main thread can."""

    def stop(number: int, _: FrameType | None) -> None:
        raise StoppedBySignal(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _tolerant_output() -> Iterator[None]:
    """Let stdout and stderr show what their encoding cannot as `\\u65e5`, and be silent once nobody reads them."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (stream and _Tolerant(stream) for stream in before)
    try:
        yield
        _flush()
    finally:
        sys.stdout, sys.stderr = before


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is without a terminal on Windows, and if it was closed
            stream.flush()


class _Tolerant:
    """A stream that drops what is written to a closed pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop()
            self._check(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop()
            self._check(error)

    def _drop(self) -> None:
        """Write nowhere from now on, also what is buffered: Python would try it again when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def _check(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            raise name_file(error, Path(self._stream.name)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
