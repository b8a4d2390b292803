"""nnUNetv2_train killed at random moments, again and again, and stopped by signals, with and without workers.

KILLS=40 says how many kills it must survive (default: 3); SEED chooses the moments (default: 0).
"""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import run_command

from nnunet_cpr.training.stopping import RESUME_ME
from nnunet_cpr.training.trace import read_trace

KILLS, SEED = int(os.environ.get("KILLS", 3)), int(os.environ.get("SEED", 0))
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


def wait_for(condition, process):
    """Wait until the condition is true, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def logged(folder, text):
    return any(text in path.read_text() for path in folder.glob("training_log*"))


def members(group):
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


def assert_equal(first, second, where=""):
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
    """Kills a training at a random moment of its life; `moments` counts at which."""

    def __init__(self, folder, generator):
        self.folder, self.generator = folder, generator
        self.logs = set()
        self.moments = collections.Counter()

    def waits(self, process):
        """Wait for the moment: any, one within an epoch, or one while a checkpoint is being written."""
        self.logs = set(self.folder.glob("training_log*"))
        kind = self.generator.choice(["any", "training", "training", "writing"])
        if kind == "any":
            end = time.monotonic() + self.generator.uniform(0, 30)
            wait_for(lambda: time.monotonic() > end, process)
            return
        wait_for(lambda: self.logged("Epoch"), process)
        if kind == "training":
            end = time.monotonic() + self.generator.uniform(0, 8)
            wait_for(lambda: time.monotonic() > end, process)
            return
        for _ in range(self.generator.randrange(1, 4)):
            wait_for(lambda: not self.temporaries(process), process)
            while process.poll() is None and not self.temporaries(process):
                pass
        time.sleep(self.generator.uniform(0, 0.003))

    def logged(self, text):
        """Whether the log of the process that is there now has the text."""
        return any(text in path.read_text() for path in set(self.folder.glob("training_log*")) - self.logs)

    def temporaries(self, process):
        names = (name for name in os.listdir(self.folder) if name.startswith(f".{process.pid}-"))
        return [name.split("-", 1)[1] for name in names]

    def kill(self, process):
        """Whether the process was still there to be killed."""
        if process.poll() is not None:
            return False
        process.kill()
        if process.wait() != -signal.SIGKILL:
            return False
        for _ in range(6000):  # workers of the validation notice its end by themselves
            if not members(process.pid):
                break
            time.sleep(0.01)
        else:
            pytest.fail("processes are left behind")
        if writing := self.temporaries(process):
            moment = f"writing {writing[0]}"
        elif self.logged("Training done"):
            moment = "validating"
        else:
            moment = "training" if self.logged("Epoch") else "starting"
        self.moments[moment] += 1
        return True


@pytest.fixture(scope="module")
def undisturbed(nnunet, tmp_path_factory):
    """A folder with what a training comes to that nobody disturbs."""
    run_command("nnUNetv2_train", "4", "tiny", "0", "-tr", NAME, "-device", "cpu")
    return Path(shutil.move(fold_of(nnunet), tmp_path_factory.mktemp("undisturbed")))


def test_killed_at_random_moments(nnunet, undisturbed):
    """Each time it goes on with --c; when it has come to its end, that is the undisturbed one's, and it starts anew."""
    folder = fold_of(nnunet)
    folder.mkdir(parents=True, exist_ok=True)
    killer, finished = Killer(folder, random.Random(SEED)), 0
    while True:
        enough = killer.moments.total() >= KILLS
        process = start(NAME, "--c")
        if not enough:
            killer.waits(process)
            if killer.kill(process):
                process.stdout.close()
                continue
        output = process.communicate()[0].decode()
        assert process.returncode == 0, output[-3000:]
        assert_equal(end_of(folder), end_of(undisturbed))
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        assert not list(folder.glob("*.broken")) and not list(folder.glob("*.old"))
        finished += 1
        shutil.rmtree(folder)
        folder.mkdir()
        if enough:
            break
    print(f"survived {killer.moments.total()} kills, {finished} trainings equal to the undisturbed one;",
          ", ".join(f"{count} while {moment}" for moment, count in killer.moments.most_common()))  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_stopped_with_workers(nnunet, number):
    """A signal to the whole group, as from a terminal or a scheduler: exit code 75, no traceback, nothing left."""
    folder = fold_of(nnunet, WITH_WORKERS)
    process = start(WITH_WORKERS, "--c", nnUNet_n_proc_DA="2")
    try:
        wait_for(lambda: logged(folder, "Epoch 1"), process)
        assert len(members(process.pid)) > 3
        os.killpg(process.pid, number)
        output = process.communicate(timeout=300)[0].decode()
        assert (process.returncode, members(process.pid)) == (RESUME_ME, [])
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
    assert (process.returncode, members(process.pid)) == (RESUME_ME, []), output
    assert "Stopped by SIGTERM in the validation; --c repeats it" in output
    assert not (folder / "validation" / "summary.json").exists()
    run_command("nnUNetv2_train", "4", "tiny", "0", "-tr", NAME, "-device", "cpu", "--c")
    assert_equal(end_of(folder), end_of(undisturbed))
    shutil.rmtree(folder)
