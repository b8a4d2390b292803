"""scripts/train_gpt2.py killed at random moments, again and again.

KILLS=40 says how many kills it must survive (default: 3); SEED chooses the moments (default: 0).
"""

import random
import shutil
import subprocess
import sys

import pytest
import torch
from killing import KILLS, SEED, Killer, assert_equal, kill_again_and_again
from script_helpers import ENVIRONMENT, GPT2, gpt2_flags, losses, run_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
LENGTH = ["--max-steps", "30", "--checkpoint-every", "2"]


class ScriptKiller(Killer):
    """Kills train_gpt2.py."""

    def begin(self):
        self.rows = self.count()

    def phase(self):
        if self.count() == 30:
            return "ending"
        return "starting" if self.count() == self.rows else "training"

    def count(self):
        """The steps in metrics.csv; a process that goes on first removes those that it does again."""
        path = self.folder / "metrics.csv"
        return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def end_of(folder):
    """What a training comes to: losses, bounds and multipliers at each step, weights, momenta."""
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {"losses": losses(folder), "trace": (folder / "cpr_trace.csv").read_text(), "checkpoint": checkpoint}


def test_killed_at_random_moments(text, tmp_path):
    """Each time it goes on with --resume; its end is that of an undisturbed training, and it starts anew."""
    done = run_python(str(GPT2), *gpt2_flags(text, tmp_path / "undisturbed", *LENGTH))
    assert done.returncode == 0, done.stderr
    expected, folder = end_of(tmp_path / "undisturbed"), tmp_path / "killed"
    assert len(expected["losses"]) == 30
    folder.mkdir()
    killer = ScriptKiller(folder, random.Random(SEED), life=14, training=6, file="checkpoint.pt")

    def start():
        resume = ["--resume"] if (folder / "config.json").exists() else []  # killed before it began
        command = [sys.executable, str(GPT2), *gpt2_flags(text, folder, *LENGTH), *resume]
        return subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def check():
        assert_equal(end_of(folder), expected)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    def remove():
        shutil.rmtree(folder)
        folder.mkdir()

    print(killer.report(kill_again_and_again(killer, KILLS, start, check, remove)))
