"""Small trainings of the scripts, in this process or another."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GPT2 = ROOT / "scripts" / "train_gpt2.py"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""
}  # fmt: skip


def gpt2_flags(text: Path, out: Path, *more: str) -> list[str]:
    """Flags of a training of 12 steps, with everything written at every step and checkpoints every 5."""
    flags = (
        f"--data {text} --out {out} --device cpu --max-steps 12 --warmup-steps 3 --context 16 --batch-size 4 "
        "--eval-sequences 4 --eval-every 4 --log-every 1 --trace-every 1 --checkpoint-every 5 "
    )
    return [*flags.split(), *more]


def train_gpt2_here(flags: list[str]) -> None:
    """Train in this process; a user's mistake arrives as the exception that the command line would print."""
    from harness.parsing import parse
    from train_gpt2 import GPT2Settings, train

    train(parse(GPT2Settings, "", flags))


def run_python(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python's (script or -m module) without a GPU, and return it with its output."""
    return subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def losses(out: Path) -> list[tuple[str, ...]]:
    """What must be equal in two equal runs: step and losses, as they are written."""
    with (out / "metrics.csv").open(newline="") as file:
        return [(row["step"], row["train_loss"], row["lr"], row["val_loss"]) for row in csv.DictReader(file)]


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Break the training off as Control-C would, after this many steps."""
    from harness.run import Run

    real = Run.end_step

    def end_step(self: Run, step: int, *rest: Any) -> None:
        real(self, step, *rest)
        if step + 1 == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "end_step", end_step)


def run_with_torchrun(script: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes of torchrun on the CPU."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "scripts" / script))
    return run_python(*launch, *flags)
