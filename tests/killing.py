"""Killing a training again and again: at which moments, and whether its end is as it should be."""

import collections
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

KILLS, SEED = int(os.environ.get("KILLS", 3)), int(os.environ.get("SEED", 0))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait until the condition is true, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def members(group: int) -> list[str]:
    """Processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


def left_behind(group: int) -> list[str]:
    """Processes of a group that are still there a minute after its leader's end; they need a moment to notice it."""
    for _ in range(6000):
        if not members(group):
            break
        time.sleep(0.01)
    return members(group)


def seconds_of_work(process: subprocess.Popen[Any]) -> float:
    """The processor time of a process, which on a busy machine tells how far it is, as a clock does not."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    """Compare bit for bit, through all dictionaries and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second), where)
    else:
        assert first == second, where


class Killer:
    """Kills a training at a random moment of its life; `moments` counts at which.

    Args:
        folder: where it writes its files, as `nnunet_cpr.files.write_whole` does.
        generator: chooses the moments.
        life, training: seconds of work of a whole training, and between its first step and its end.
        file: how the name of a file begins in whose writing it is to be killed; empty for any.
    """

    def __init__(self, folder: Path, generator: random.Random, life: float, training: float, file: str = "") -> None:
        self.folder, self.generator = folder, generator
        self.life, self.training, self.file = life, training, file
        self.moments: collections.Counter[str] = collections.Counter()

    def begin(self) -> None:
        """Note what is there of earlier processes; called when a process starts."""

    def phase(self) -> str:
        """Tell what the process is doing: "starting", "training", or what comes after it."""
        raise NotImplementedError

    def waits(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the moment: any, one within the training, or one while a file is being written."""
        self.begin()
        kind = self.generator.choice(["any", "training", "training", "writing"])
        if kind == "any":
            end = self.generator.uniform(0, self.life)
            wait_for(lambda: seconds_of_work(process) > end, process)
            return
        wait_for(lambda: self.phase() != "starting", process)
        if kind == "training":
            end = seconds_of_work(process) + self.generator.uniform(0, self.training)
            wait_for(lambda: seconds_of_work(process) > end, process)
            return
        for _ in range(self.generator.randrange(1, 4)):
            wait_for(lambda: not self.temporaries(process), process)
            while process.poll() is None and not self.temporaries(process):
                pass
        time.sleep(self.generator.uniform(0, 0.003))

    def temporaries(self, process: subprocess.Popen[bytes]) -> list[str]:
        """The files that a process is writing."""
        start = f".nnunet-cpr-{process.pid}-"
        names = [name.split("-", 4)[4] for name in os.listdir(self.folder) if name.startswith(start)]
        return [name for name in names if name.startswith(self.file)]

    def kill(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the process was still there to be killed."""
        if process.poll() is not None:
            return False
        process.kill()
        if process.wait() != -signal.SIGKILL:
            return False
        assert left_behind(process.pid) == []
        writing = self.temporaries(process)
        self.moments[f"writing {writing[0]}" if writing else self.phase()] += 1
        return True

    def report(self, finished: int) -> str:
        """Say how many kills were survived."""
        moments = ", ".join(f"{count} while {moment}" for moment, count in self.moments.most_common())
        return f"survived {self.moments.total()} kills, {finished} trainings equal to the undisturbed one; {moments}"


def kill_again_and_again(killer: Killer, kills: int, start: Callable[[], subprocess.Popen[bytes]],
                         check: Callable[[], None], remove: Callable[[], None]) -> int:  # fmt: skip
    """Kill a training, start it again and so on; return how often it came to its end, which `check` compares.

    After an end it is removed and begins anew. Once it was killed so many times, it may finish.
    """
    finished = 0
    while True:
        enough = killer.moments.total() >= kills
        process = start()
        if not enough:
            killer.waits(process)
            if killer.kill(process):
                if process.stdout:
                    process.stdout.close()
                continue
        output = process.communicate()[0].decode()
        assert process.returncode == 0, output[-3000:]
        check()
        finished += 1
        remove()
        if enough:
            return finished
