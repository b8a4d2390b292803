"""nnUNetv2_train killed at random moments, again and again, and stopped by signals, with and without workers.

KILLS=40 says how many kills it must survive (default: 3); SEED chooses the moments (default: 0).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import KILLS, SEED, Killer, assert_equal, kill_again_and_again, left_behind, members, wait_for
from training_helpers import run_command

from nnunet_cpr.training.stopping import RESUME_ME
from nnunet_cpr.training.trace import read_trace

NAME = "nnUNetTrainerCPR_ws4_warmup3_5epochs_4iters_seed3"
WITH_WORKERS = "nnUNetTrainerSGD_1000epochs_4iters"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def fold_of(nnunet, name=NAME):
    return nnunet.results / f"{name}__nnUNetPlans__tiny" / "fold_0"


def start(name, *arguments, command=("nnUNetv2_train",), **environment):
    """A training in a process group of its own."""
    return subprocess.Popen(
        [Path(sys.executable).parent / command[0], *command[1:], "4", "tiny", "0", "-tr", name, "-device", "cpu",
         *arguments],
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def logged(folder, text):
    return any(text in path.read_text() for path in folder.glob("training_log*"))


def end_of(folder):
    """What a training comes to: weights, momenta, bounds, multipliers, logs, trace, best checkpoint, Dice."""
    final, best = (torch.load(folder / f"checkpoint_{name}.pth", weights_only=False) for name in ("final", "best"))
    for checkpoint in (final, best):
        checkpoint["logging"] = {k: np.array(v) for k, v in checkpoint["logging"].items() if "timestamps" not in k}
        del checkpoint["init_args"]
    return {
        "final": final,
        "best": best,
        "trace": read_trace(folder / "cpr_trace.csv"),
        "validation": (folder / "validation" / "summary.json").read_text(),
    }


class TrainingKiller(Killer):
    """Kills nnUNetv2_train."""

    def begin(self):
        self.logs = set(self.folder.glob("training_log*"))

    def phase(self):
        if self.logged("Training done"):
            return "validating"
        return "training" if self.logged("Epoch") else "starting"

    def logged(self, text):
        """Whether the log of the process that is there now has the text."""
        return any(text in path.read_text() for path in set(self.folder.glob("training_log*")) - self.logs)


@pytest.fixture(scope="module")
def undisturbed(nnunet, tmp_path_factory):
    """A folder with what a training comes to that nobody disturbs."""
    run_command("nnUNetv2_train", "4", "tiny", "0", "-tr", NAME, "-device", "cpu")
    return Path(shutil.move(fold_of(nnunet), tmp_path_factory.mktemp("undisturbed")))


def test_killed_at_random_moments(nnunet, undisturbed):
    """Each time it goes on with --c; when it has come to its end, that is the undisturbed one's, and it starts anew."""
    folder = fold_of(nnunet)
    folder.mkdir(parents=True, exist_ok=True)
    killer = TrainingKiller(folder, random.Random(SEED), life=30, training=8)

    def check():
        assert_equal(end_of(folder), end_of(undisturbed))
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        assert not list(folder.glob("*.broken")) and not list(folder.glob("*.old"))

    def remove():
        shutil.rmtree(folder)
        folder.mkdir()

    print(killer.report(kill_again_and_again(killer, KILLS, lambda: start(NAME, "--c"), check, remove)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_stopped_with_workers(nnunet, number):
    """A signal to the whole group, as from a terminal or a scheduler: exit code 75, no traceback, nothing left."""
    folder = fold_of(nnunet, WITH_WORKERS)
    process = start(WITH_WORKERS, "--c", nnUNet_n_proc_DA="2")
    try:
        wait_for(lambda: logged(folder, "Epoch 1"), process)
        assert len(members(process.pid)) > 3
        os.killpg(process.pid, number)
        output = process.communicate(timeout=300)[0].decode()
        assert (process.returncode, left_behind(process.pid)) == (RESUME_ME, [])
        assert f"Stopped by {number.name}" in output and "Traceback" not in output
        assert (folder / "checkpoint_latest.pth").exists()
    finally:
        process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_stopped_in_the_validation(nnunet, undisturbed):
    """Started through our own launcher, which must make no difference; --c then repeats only the validation."""
    folder = shutil.copytree(undisturbed, fold_of(nnunet), dirs_exist_ok=True)
    process = start(NAME, "--c", command=("python", "-m", "nnunet_cpr.training.launch"))
    shutil.rmtree(folder / "validation")
    wait_for(lambda: (folder / "validation").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=300)[0].decode()
    assert (process.returncode, left_behind(process.pid)) == (RESUME_ME, []), output
    assert "Stopped by SIGTERM in the validation; --c repeats it" in output
    assert not (folder / "validation" / "summary.json").exists()
    run_command("nnUNetv2_train", "4", "tiny", "0", "-tr", NAME, "-device", "cpu", "--c")
    assert_equal(end_of(folder), end_of(undisturbed))
    shutil.rmtree(folder)
