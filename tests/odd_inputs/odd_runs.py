"""Runs a command in a child of this process, which has imported everything, and judges how it ended.

A child is a fork, so an input costs a fraction of a second and cannot change what the next one finds. Stops come at the
n-th change on disk, by an audit hook: the same ones each time, and also for root, whom permissions do not bind.
"""

import atexit
import contextlib
import errno
import io
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odd_worlds import ACCEPTED, EITHER, REFUSED, OracleError, Stop, World, changes, inside, tree

SECONDS = 300.0
"""A command that takes longer hangs."""
CPU_SECONDS = 120
MEMORY = 16 * 2**30
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.symlink", "os.link", "os.rmdir", "os.truncate")
HIDDEN = re.compile(r"(^|/)\.[^/]*(/|$)")


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, or minus the number of a signal."""

    code: int
    out: str
    err: str
    hung: bool


def run(world: World, stop: Stop | None) -> Ending:
    """Run the world's command in a child."""
    # Beside the world. No TemporaryDirectory, which would also be removed when the child ends.
    files = [world.folder.with_name(name) for name in ("out", "err")]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_the_command(world, stop, files)
    hung = _wait(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # before the child is reaped: its number belongs to nobody else yet
    _, status = os.waitpid(child, 0)
    out, err = (path.read_bytes().decode(world.encoding, errors="replace") for path in files)
    for path in files:
        path.unlink()
    if not Path(os.devnull).is_char_device():  # root may replace it, and then all on this machine that uses it is lost
        raise SystemExit(
            f"{world.argv} replaced {os.devnull} by a file; rm {os.devnull}; mknod -m 666 {os.devnull} c 1 3"
        )
    return Ending(os.waitstatus_to_exitcode(status), out, err, hung)


def _wait(child: int) -> bool:
    """Wait until the child has ended, which is not reaped yet; return whether it had to be killed."""
    until = time.monotonic() + SECONDS
    pause = 0.002
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            return True
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    return False


def _be_the_command(world: World, stop: Stop | None, files: list[Path]) -> None:
    """Become the command: never returns."""
    code = 1
    try:
        os.setsid()
        for number, path in enumerate(files, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), world.encoding, "strict", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), world.encoding, "backslashreplace", write_through=True)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        os.environ.clear()
        os.environ.update(world.environment)
        tempfile.tempdir = None
        os.chdir(world.cwd)
        if world.fresh:
            script = files[0].with_name(world.program)
            script.write_text("import sys\nfrom nnunet_cpr.cli import main\nsys.exit(main())\n")
            os.execve(sys.executable, [sys.executable, str(script), *world.argv], world.environment)
        sys.argv = [f"/usr/bin/{world.program}", *world.argv]
        main = world.main()
        world.before_run()
        if stop:
            _stop_there(world, stop)
        code = _exit_code(main, world.argv)
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def _exit_code(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Return what the interpreter would exit with."""
    try:
        return int(main(list(argv)) or 0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return 130 if isinstance(error, KeyboardInterrupt) else 1


def _stop_there(world: World, stop: Stop) -> None:
    """Let the change on disk that `stop` names fail, or be the last one."""
    left = [stop.at]
    below = os.path.realpath(stop.below or world.folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else set(mode or "") & set("wax+")
        else:
            path, writes = arguments[0] if event in WRITES else None, event in WRITES
        if not writes or not isinstance(path, (str, bytes, os.PathLike)):
            return
        if not os.path.realpath(os.fsdecode(path)).startswith(below):
            return
        left[0] -= 1
        if stop.how.startswith("SIG"):
            if left[0] == 0:
                os.kill(os.getpid(), getattr(signal, stop.how))
        elif left[0] <= 0 and event in ("open", "os.mkdir", "os.symlink"):
            number = getattr(errno, stop.how)
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    sys.addaudithook(hook)


def judge(world: World) -> tuple[str, list[str]]:
    """Run the command, twice where it is stopped or repeated; return how it ended and what was wrong."""
    before = tree(world.folder)
    world.words += [part for path in before for part in (Path(path).name, Path(path).name.split(".")[0])]
    first = run(world, world.stop)
    signaled = world.stop is not None and world.stop.how.startswith("SIG")
    killed = first.code in (-signal.SIGKILL, -signal.SIGTERM) and not first.hung
    if signaled and (killed or first.code in (130, 143)):
        outcome = "killed" if killed else "interrupted"
        wrong = [] if killed else _ends_quietly(world, first, before)
    else:
        outcome, wrong = _judged(world, first, before, before)
        if not (world.again or (world.stop and outcome == "refused" and not signaled)):
            return outcome, wrong
    if not getattr(world, "repeatable", True) and _has_written(world, before):
        world.verdict = EITHER  # stopped when all was done: the second run may say that its output exists
    again, found = _judged(world, run(world, None), before, tree(world.folder), again=True)
    return f"{outcome}, then {again}", wrong + [f"the second time: {one}" for one in found]


def _has_written(world: World, before: dict[str, str]) -> bool:
    """Tell whether something is in the output now that is not hidden."""
    new = (name for name in tree(world.folder) if name not in before)
    return any(inside(name, world.output, world) and not HIDDEN.search(name) for name in new)


def _ends_quietly(world: World, ending: Ending, before: dict[str, str]) -> list[str]:
    """Say what is wrong with the end of a command that was asked to stop."""
    wrong = _noise(world, ending) + _moved(world, before, tree(world.folder), ending, failed=False)
    lines = [line for line in ending.err.splitlines() if line.strip()]
    return wrong if len(lines) == 1 else [*wrong, f"a stop leaves {len(lines)} lines: {lines[:3]}"]


def _judged(
    world: World, ending: Ending, before: dict[str, str], start: dict[str, str], again: bool = False
) -> tuple[str, list[str]]:
    """Judge an ending; `before` is the tree before all runs, `start` the one before this run."""
    wrong = _noise(world, ending)
    after = tree(world.folder)
    stopped = world.stop is not None and not again
    if ending.hung:
        return "hung", [*wrong, f"no end after {SECONDS:.0f} s"]
    if ending.code < 0:
        return "crashed", [*wrong, f"ended by signal {-ending.code}"]
    if ending.code in world.good_codes:
        wrong += _moved(world, before, after, ending, failed=False)
        if world.verdict == REFUSED and not stopped:
            wrong.append("accepted, but must be refused")
        else:
            try:
                world.check_success(ending.out, ending.err)
                world.check_users_files(before, after)
            except OracleError as error:
                wrong.append(str(error))
        return "accepted", wrong
    if ending.code != 2:
        return f"exit code {ending.code}", [*wrong, f"exit code {ending.code}: {ending.err[-300:]!r}"]
    wrong += _moved(world, start, after, ending, failed=not stopped)
    try:
        world.check_users_files(before, after)
    except OracleError as error:
        wrong.append(str(error))
    if world.verdict == ACCEPTED and not stopped and not world.excused(ending.err):
        wrong.append(f"refused, but must be accepted: {ending.err.strip()[:400]}")
    return "refused", wrong + _bad_message(world, ending.err)


def _noise(world: World, ending: Ending) -> list[str]:
    both = ending.out + ending.err
    if "Traceback (most recent call last)" in both:
        lines = both[both.rindex("Traceback (most recent call last)") :].strip().splitlines()
        place = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
        return [f"traceback: {lines[-1][:200]} [{place}]"]
    if "Exception ignored" in both:
        return [f"exception ignored: {both[-300:]!r}"]
    return []


def _moved(world: World, before: dict[str, str], after: dict[str, str], ending: Ending, failed: bool) -> list[str]:
    """Say what the command has left or changed where it must not.

    A leftover that it names, for the user to delete, is none of these.
    """
    found = []
    for change in changes(before, after):
        name = change.rsplit(" is ", 1)[0].removesuffix(" changed")
        in_output = inside(name, world.output, world)
        own_parent = world.output is not None and not failed and change.endswith("is new") and _leads_to(name, world)
        part = _hidden_part(name)
        hidden = part is not None and part not in before and change.endswith("is new")
        if _below_named(name, ending):
            continue
        if hidden and after.get(name) == "folder" and world.stop and ending.code == 130 and _has_written(world, before):
            continue  # the empty place of what was made, when Ctrl-C came between its last two steps
        if hidden or not ((in_output and not failed) or own_parent or world.may_change(name)):
            found.append(change)
    return [f"{'after a refusal' if failed else 'outside the output'}: {'; '.join(found[:4])}"] if found else []


def _hidden_part(name: str) -> str | None:
    """Return the path of the first hidden folder or file in a path."""
    found = HIDDEN.search(name)
    return name[: found.end()].rstrip("/") if found else None


def _below_named(name: str, ending: Ending) -> bool:
    return any(part.startswith(".") and part in ending.out + ending.err for part in name.split(os.sep))


def _leads_to(name: str, world: World) -> bool:
    assert world.output is not None
    target = os.path.relpath(os.path.realpath(world.output), os.path.realpath(world.folder))
    return target.startswith(name + os.sep)


def _bad_message(world: World, err: str) -> list[str]:
    """Say what is wrong with what a refusal printed."""
    lines = err.splitlines()
    if lines and lines[0].startswith("usage:"):
        return [] if any(" error: " in line for line in lines) else [f"usage without an error: {lines[-1]!r}"]
    if not lines or not (len(lines) == 1 or world.several_lines):
        return [f"{len(lines)} lines: {[line[:150] for line in lines[:3]]}"]
    if not lines[0].startswith(f"{world.program}: error: "):
        return [f"begins otherwise: {lines[0][:200]!r}"]
    text = lines[0].removeprefix(f"{world.program}: error: ")
    if len(lines[0]) > 3000 + 3 * sum(map(len, world.argv)):
        return [f"a line of {len(lines[0])} characters: {text[:200]!r}"]
    if not _names_something(world, text):
        return [f"names nothing of the input: {text[:300]!r}"]
    return []


def _names_something(world: World, text: str) -> bool:
    if "is empty" in text and "" in world.argv:  # there is nothing to name
        return True
    own = [value for name, value in world.environment.items() if name.startswith("nnUNet")]
    words = [str(world.folder), "nnUNet_", *own, *world.words]
    for argument in world.argv:
        name, _, rest = argument.partition("=")
        words += [argument, name, rest, *rest.split(","), argument.split("/")[-1]]
    words = [word for word in words if len(word.strip()) > 1 or f"'{word}'" in text or word in text.split()]
    return any(word in text or repr(word)[1:-1] in text for word in words)
