"""nnU-Net's own commands on CPU: train, kill, resume, validate, predict, choose a configuration."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from training_helpers import make_trainer, run_command

from nnunet_cpr.training.trace import read_trace

NAME = "nnUNetTrainerCPR_ws4_warmup3_4epochs_4iters_seed3"
pytestmark = pytest.mark.slow


def train(*arguments, name=NAME, fold="0", **kwargs):
    return run_command("nnUNetv2_train", "4", "tiny", fold, "-tr", name, "-device", "cpu", *arguments, **kwargs)


def checkpoint(folder):
    return torch.load(folder / "checkpoint_final.pth", weights_only=False)


def fold_of(nnunet, name=NAME):
    return nnunet.results / f"{name}__nnUNetPlans__tiny" / "fold_0"


@pytest.fixture(scope="module")
def finished(nnunet):
    """The fold of a training that nobody disturbed."""
    train("--npz")
    return fold_of(nnunet)


def test_train_writes_what_nnunet_writes_and_the_trace(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"checkpoint_final.pth", "progress.png", "cpr_trace.csv", "cpr_progress.png", "validation"} <= names
    assert not any(name.startswith(".") for name in names)
    summary = json.loads((finished / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    assert checkpoint(finished)["trainer_name"] == NAME
    rows = read_trace(finished / "cpr_trace.csv")
    assert len(rows) == 4 * 9
    assert [row.step for row in rows[::9]] == [4, 8, 12, 16]


def test_killed_and_resumed_is_the_same_training(nnunet, finished, tmp_path):
    """SIGKILL in the middle of an epoch, then --c: the same weights, bounds, multipliers, rates and trace."""
    shutil.move(finished, tmp_path / "undisturbed")
    try:
        command = [Path(sys.executable).parent / "nnUNetv2_train", "4", "tiny", "0", "-tr", NAME, "-device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not any("Epoch 2" in log.read_text() for log in finished.glob("*.txt")):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (finished / "checkpoint_final.pth").exists()
        assert {row.epoch for row in read_trace(finished / "cpr_trace.csv")} == {0, 1}
        train("--c")
        resumed, undisturbed = checkpoint(finished), checkpoint(tmp_path / "undisturbed")
        for key, value in undisturbed["network_weights"].items():
            assert torch.equal(resumed["network_weights"][key], value), key
        for p, state in undisturbed["optimizer_state"]["state"].items():
            for key, value in state.items():
                assert torch.equal(resumed["optimizer_state"]["state"][p][key], value), (p, key)
        assert resumed["logging"]["lrs"] == undisturbed["logging"]["lrs"]
        assert read_trace(finished / "cpr_trace.csv") == read_trace(tmp_path / "undisturbed" / "cpr_trace.csv")
    finally:
        shutil.rmtree(finished, ignore_errors=True)
        shutil.move(tmp_path / "undisturbed", finished)


def test_validation_alone(finished):
    summary = finished / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    trace = (finished / "cpr_trace.csv").read_bytes()
    shutil.rmtree(finished / "validation")
    train("--val", "--npz")
    assert json.loads(summary.read_text())["foreground_mean"] == before
    assert (finished / "cpr_trace.csv").read_bytes() == trace


def test_prediction_is_that_of_the_validation(nnunet, finished, tmp_path):
    case = next((finished / "validation").glob("*.nii.gz"))
    (tmp_path / "in").mkdir()
    image = case.name.replace(".nii.gz", "_0000.nii.gz")
    shutil.copy(nnunet.raw / "imagesTr" / image, tmp_path / "in" / image)
    run_command("nnUNetv2_predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-d", "4", "-c", "tiny",
                "-f", "0", "-tr", NAME, "-device", "cpu", "-npp", "1", "-nps", "1")  # fmt: skip
    predicted, validated = (np.asarray(nibabel.load(p).dataobj) for p in (tmp_path / "out" / case.name, case))
    assert np.mean(predicted == validated) > 0.999


def test_find_best_configuration(nnunet, finished):
    run_command("nnUNetv2_find_best_configuration", "4", "-c", "tiny", "-tr", NAME, "-f", "0", "-np", "1",
                "--disable_ensembling")  # fmt: skip
    information = json.loads((nnunet.results / "inference_information.json").read_text())
    assert information["best_model_or_ensemble"]["selected_model_or_models"][0]["trainer"] == NAME


def test_pretrained_weights(nnunet, finished):
    """As for nnUNetv2_train -pretrained_weights: CPR's bounds are those of the weights that were loaded."""
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_ki1_1epochs_1iters")
    maybe_load_checkpoint(trainer, False, False, str(finished / "checkpoint_final.pth"))
    trainer.run_training()
    given = checkpoint(finished)["network_weights"]
    constraints = [c for c in trainer.optimizer.constraints() if "seg_layers" not in c.name]  # not taken over
    assert len(constraints) == 7
    for c in constraints:
        assert c.kappa == pytest.approx(float(given[c.name].square().sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nnUNetTrainerCPR_ws10_ip", "Could not find requested nnunet trainer nnUNetTrainerCPR_ws10_ip"),
        ("nnUNetTrainerCPR_2epochs", "ValueError: nnUNetTrainerCPR_2epochs: the warm start takes 1000 steps"),
    ],
)
def test_mistakes_end_with_one_clear_line(nnunet, name, reason):
    result = run_command("nnUNetv2_train", "4", "tiny", "0", "-tr", name, "-device", "cpu", check=False)
    assert result.returncode != 0
    assert reason in result.stderr.strip().splitlines()[-1]
