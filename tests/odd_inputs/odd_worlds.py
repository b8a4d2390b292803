"""What every odd input consists of: a good world on disk, a command in it, and one to three oddities.

A command's module makes worlds (a subclass of :class:`World`) and its oddities are functions marked with :func:`odd`.
An oddity changes the world, the command or the environment and returns a few words that say how. Whether the command
must then refuse, must succeed, or may do either is a property of the oddity.
"""

import hashlib
import os
import random
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
REFUSED, ACCEPTED, EITHER = "must be refused", "must be accepted", "may be either"
MODEL, DISK, REQUEST, TEXT, PLACE = range(5)
"""When an oddity is applied: to the numbers before files are written, to the files, to the flags, to the YAML text made
of them, to the environment and output."""


class NotHereError(Exception):
    """An oddity that makes no sense in this world."""


class OracleError(AssertionError):
    """The command succeeded with something that the world knows to be wrong."""


@dataclass(frozen=True, eq=False)
class Oddity:
    """A function that makes a world odd, when that is done, and what the command must then do."""

    function: Callable[[Any], str]
    phase: int
    verdict: str

    def __call__(self, world: Any) -> str:
        """Change the world, and return how."""
        return self.function(world)


def odd(phase: int, verdict: str = EITHER) -> Callable[[Callable[[Any], str]], Oddity]:
    """Make a function an oddity."""
    return lambda function: Oddity(function, phase, verdict)


def oddities(module: Any) -> list[Oddity]:
    """Return the oddities that a module defines, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Oddity)]


@dataclass
class Stop:
    """An end that comes at the n-th change on disk: a signal, or an error of the operating system."""

    how: str
    """SIGINT, SIGTERM, SIGKILL, or the name of an errno."""
    at: int
    below: Path | None = None
    """Only changes below this folder count, and fail."""


@dataclass
class World:
    """A place in which a command is run once, or twice where the first run is stopped."""

    folder: Path
    rng: random.Random
    argv: list[str] = field(default_factory=list)
    output: Path | None = None
    """The only place that the command may change."""
    encoding: str = "utf-8"
    """Of the terminal."""
    stop: Stop | None = None
    again: bool = False
    """Run the command a second time even if nothing stopped it."""
    several_lines: bool = False
    """An error may have several lines, each with a place in a file."""
    fresh: bool = False
    """Start Python anew for the command, for what is read at its start only."""
    program: str = "nnunet-cpr"
    good_codes: tuple[int, ...] = (0,)
    verdict: str = EITHER
    said: list[str] = field(default_factory=list)
    chosen: Sequence[Oddity] = ()
    words: list[str] = field(default_factory=list)
    """Words of the input besides its arguments and paths that an error may name."""

    def __post_init__(self) -> None:
        self.cwd, self.home, self.tmp = (self.folder / name for name in ("cwd", "home", "tmp"))
        for path in (self.cwd, self.home, self.tmp):
            path.mkdir(parents=True)
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "TRITON_INTERPRET")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {"HOME": str(self.home), "TMPDIR": str(self.tmp)}

    def finish(self, chosen: Sequence[Oddity]) -> None:
        """Write the world with the chosen oddities, each at its time."""
        self.chosen = chosen
        verdicts = [oddity.verdict for oddity in chosen]
        self.verdict = REFUSED if REFUSED in verdicts else EITHER if EITHER in verdicts else ACCEPTED
        for phase in range(5):
            for oddity in chosen:
                if oddity.phase == phase:
                    self.said.append(oddity(self))
            self.end_phase(phase)

    def end_phase(self, phase: int) -> None:
        """Do what comes after the oddities of a phase."""

    def main(self) -> Callable[[list[str]], int]:
        """Return what is called with the arguments."""
        from nnunet_cpr.cli import main

        return main

    def may_change(self, name: str) -> bool:
        """Tell whether the command may write this path (relative to the world) outside its output."""
        # Torch's own, and what Python's tempfile tries a folder with.
        return name.startswith("tmp/torchinductor_") or bool(re.fullmatch(r"tmp/[a-z0-9_]{8}", name))

    def loosen(self) -> None:
        """Note that what is asked for is no longer known."""

    def before_run(self) -> None:
        """Replace what would take too long; called in the process that runs the command."""

    def check_success(self, out: str, err: str) -> None:
        """Raise OracleError unless what was printed and written is right."""

    def excused(self, err: str) -> bool:
        """Tell whether a refusal is right for a reason that lies in the numbers."""
        return False

    def check_users_files(self, before: dict[str, str], after: dict[str, str]) -> None:
        """Raise OracleError where files in the output that are the user's have changed."""


def pick(world: World, options: Iterable[T]) -> T:
    """Return one of the options."""
    return world.rng.choice(list(options))


def tree(folder: Path) -> dict[str, str]:
    """What is below a folder: kind and content of every path, links as links."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[key] = f"link to {os.readlink(path)!r}"
            elif stat.S_ISDIR(mode):
                found[key] = "folder"
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found[key] = f"file {hashlib.sha256(file.read()).hexdigest()}"
            else:
                found[key] = "special"
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what differs between two trees, in words."""
    gone = [f"{name} is gone" for name in before if name not in after]
    new = [f"{name} is new" for name in after if name not in before]
    other = [f"{name} changed" for name in before if name in after and before[name] != after[name]]
    return [*gone, *new, *other]


def inside(name: str, folder: Path | None, world: World) -> bool:
    """Tell whether a path of a tree is the folder or lies in it."""
    if folder is None:
        return False
    try:
        own = os.path.relpath(os.path.realpath(folder), os.path.realpath(world.folder))
    except ValueError:
        return False
    return own == "." or name == own or name.startswith(own + os.sep)
