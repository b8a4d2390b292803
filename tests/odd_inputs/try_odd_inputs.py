"""Tries odd inputs of all commands and prints how they ended.

    python tests/odd_inputs/try_odd_inputs.py [--inputs N] [--seed S] [--only NUMBER] [--keep FOLDER] [COMMAND ...]

N inputs of each command, the same ones for the same seed. `--only` repeats a single one, `--keep` leaves its world. The
exit code is 1 if anything was taken badly.
"""

import argparse
import contextlib
import io
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "odd_inputs"), str(ROOT / "scripts")]
sys.path += [str(ROOT / "tests" / name) for name in ("datasets", "batch", "scripts", "evaluation")]

from odd_commands import COMMANDS, Command, import_everything  # noqa: E402
from odd_runs import judge  # noqa: E402
from odd_worlds import ACCEPTED, REFUSED, NotHereError, Oddity, World  # noqa: E402

TRIES = 200
"""Random choices of oddities that may turn out to make no sense together."""


@dataclass
class Result:
    """How one input ended."""

    command: str
    number: int
    outcome: str
    said: list[str]
    wrong: list[str]


def choose(rng: random.Random, available: Sequence[Oddity]) -> list[Oddity]:
    """Return one to three oddities; what must be refused goes with what is harmless only."""
    first = rng.choice(available)
    fellows = [one for one in available if one is not first]
    if first.verdict == REFUSED:
        fellows = [one for one in fellows if one.verdict == ACCEPTED]
    else:
        fellows = [one for one in fellows if one.verdict != REFUSED]
    return [first, *rng.sample(fellows, min(len(fellows), rng.choice([0, 0, 0, 1, 1, 2])))]


def make_world(command: Command, number: int, seed: int, place: Path) -> World:
    """Return a world with its oddities, made of random choices that fit each other."""
    for attempt in range(TRIES):
        rng = random.Random(f"{seed} {command.name} {number} {attempt}")
        folder = place / "world"
        world = command.make(folder, rng)
        try:
            world.finish(choose(rng, command.oddities))
            return world
        except NotHereError:
            shutil.rmtree(folder)
        except Exception as error:  # an oddity has taken from another what it needs
            if len(world.chosen) == 1:
                raise AssertionError(f"{command.name} {number}: {world.said}, {world.chosen}") from error
            shutil.rmtree(folder)
    raise AssertionError(f"{command.name} {number}: no world in {TRIES} attempts")


def try_one(command: Command, number: int, seed: int, keep: Path | None = None) -> Result:
    """Make a world, run its command, and say how that ended."""
    place = keep or Path(tempfile.mkdtemp(prefix="odd-"))
    try:
        world = make_world(command, number, seed, place)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # nnU-Net's readers, when the oracle uses them
                outcome, wrong = judge(world)
        except Exception:
            outcome, wrong = "oracle failed", traceback.format_exc().splitlines()[-6:]
        if keep:
            print(f"cd {world.cwd}\n{world.environment}\n{world.argv}\n{world.verdict}")
        return Result(command.name, number, outcome, world.said, wrong)
    finally:
        if not keep:
            shutil.rmtree(place)


def try_many(
    names: Sequence[str], inputs: int, seed: int, tell: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Try the first inputs of each command."""
    found = []
    for name in names:
        for number in range(inputs):
            found.append(try_one(COMMANDS[name], number, seed))
            tell(found[-1])
    return found


def table(results: Sequence[Result]) -> str:
    """Return the counts by command and outcome as Markdown."""
    outcomes = ["accepted", "refused", "stopped", "otherwise"]

    def kind(result: Result) -> str:
        first = result.outcome.split(",")[0]
        return "stopped" if first in ("killed", "interrupted") else first if first in outcomes else "otherwise"

    lines = [
        "| command | odd inputs | accepted | refused in one line | stopped | taken badly |",
        "|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(result.command for result in results))
    for name in [*names, "together"]:
        own = [result for result in results if name in (result.command, "together")]
        counts = Counter(map(kind, own))
        bad = sum(bool(result.wrong) for result in own)
        lines.append(
            f"| {name} | {len(own)} | {counts['accepted']} | {counts['refused']} | {counts['stopped']} | {bad} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Try what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=int(os.environ.get("INPUTS", 20)))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", 0)))
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args(argv)
    names = args.commands or list(COMMANDS)
    import_everything()
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # the worlds use nibabel, too
    if args.only is not None:
        results = [try_one(COMMANDS[name], args.only, args.seed, args.keep) for name in names]
    else:
        results = try_many(names, args.inputs, args.seed, _tell)
    for result in results:
        if args.only is not None:
            print(result.outcome)
            _tell(result)
    print(table(results))
    return int(any(result.wrong for result in results))


def _tell(result: Result) -> None:
    if result.wrong:
        print(f"{result.command} {result.number} ({'; '.join(result.said)}): {result.outcome}", flush=True)
        for line in result.wrong:
            print(f"    {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
