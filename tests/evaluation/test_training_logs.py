"""nnU-Net's logs: losses, pseudo Dice and time of every epoch, each once."""

import json
import os

import numpy as np
import pytest
from evaluation_helpers import log_lines, write_log, write_training

from nnunet_cpr.evaluation.readers.provenance import newer_training
from nnunet_cpr.evaluation.readers.training_logs import (
    read_cost,
    read_log,
    read_logs,
    read_pseudo_dice,
    steps_per_epoch,
)
from nnunet_cpr.evaluation.readers.trainings import find_trainings
from nnunet_cpr.evaluation.results import EPOCH_COLUMNS

NAN = float("nan")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Makes folds of the trainer A and returns find_trainings' answer."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr("nnunet_cpr.evaluation.readers.nnunet_results.dataset_name", lambda _: "Dataset004_Tiny")

    def make(*logs, run="A"):
        for fold, epochs in enumerate(logs):
            folder = write_training(tmp_path, run, fold, {f"c{fold}": {"1": 0.5}}, {"x": 1})
            if epochs:
                write_log(folder, epochs)
        folds = [str(f) for f in range(len(logs))]
        return find_trainings(["4"], "3d_fullres", {"shown": [run]}, "nnUNetPlans", folds)[0]

    return make


def test_values_are_those_that_nnunet_rounds(tmp_path):
    dice = np.array([0.38354, 0.62291], dtype=np.float32)
    write_log(tmp_path, {0: (np.float32(0.64321), -1e-5, list(dice), 12.345), 1: (-0.5, NAN, [np.nan, 0.5], 11.0)})
    log = read_log(tmp_path)
    assert log["epoch"].tolist() == [0, 1]
    assert log["train_loss"].tolist() == pytest.approx([0.6432, -0.5])
    assert log["validation_loss"].tolist() == pytest.approx([0.0, NAN], nan_ok=True)
    assert log["pseudo_dice"].tolist() == pytest.approx([(0.3835 + 0.6229) / 2, 0.5])  # as np.nanmean
    assert log["seconds"].tolist() == pytest.approx([12.34, 11.0], abs=0.011)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[np.float32(0.3835), np.float32(nan)]", [0.3835, NAN]),
        ("[0.3835, nan]", [0.3835, NAN]),
        ("[np.float64(1e-04)]", [1e-4]),
        ("[]", []),
    ],
)
def test_old_and_new_numpy(text, values):
    assert read_pseudo_dice(text) == pytest.approx(values, nan_ok=True)


def test_an_epoch_that_was_done_again_counts_as_it_was_last(tmp_path):
    # The hour is not padded: the later log sorts before the earlier one as text.
    write_log(tmp_path, {0: (1, 1, [0.1], 10), 1: (2, 2, [0.2], 99)}, "training_log_2026_11_9_23_00_00.txt")
    later = tmp_path / "training_log_2026_11_10_01_00_00.txt"
    cut = log_lines(2, 4, 4, [0.4], 30).split("val_loss")[0]  # killed in the middle of epoch 2
    later.write_text(log_lines(1, 3, 3, [0.3], 20) + cut)
    log = read_log(tmp_path)[["epoch", "train_loss", "pseudo_dice", "seconds"]]
    assert log.to_numpy().tolist() == [[0, 1, 0.1, 10], [1, 3, 0.3, 20]]


def test_an_epoch_begun_again_and_not_finished_keeps_its_values(tmp_path):
    write_log(tmp_path, {0: (1, 1, [0.1], 10)}, "training_log_2026_1_1_0_0_0.txt")
    (tmp_path / "training_log_2026_1_1_1_0_0.txt").write_text("2026: Epoch 0 \n2026: train_loss 9.0 \n")
    assert read_log(tmp_path)["train_loss"].tolist() == [1]


def test_lines_that_say_nothing(tmp_path):
    lines = ["Epoch 0", "train_loss ", "Pseudo dice [ ", "Epoch time: 3 s"]
    (tmp_path / "training_log_1.txt").write_text("".join(f"2026: {line}\n" for line in lines))
    log = read_log(tmp_path)
    assert log["seconds"].tolist() == [3] and log["train_loss"].isna().all() and log["pseudo_dice"].isna().all()


def test_all_trainings_and_what_is_missing(trained):
    epochs = {e: (1 - e, 1.0, [0.5], 10 * (e + 1)) for e in range(3)}
    trainings = trained(epochs, None, {0: epochs[0], 2: epochs[2]}, None)
    logs, left_out = read_logs(trainings)
    assert list(logs.columns) == EPOCH_COLUMNS
    assert logs[["fold", "epoch", "step"]].to_numpy().tolist() == [
        ["0", 0, 250], ["0", 1, 500], ["0", 2, 750], ["2", 0, 250], ["2", 2, 750],
    ]  # fmt: skip
    assert left_out == [
        "Left out, because there is no log: Dataset004_Tiny, A, fold 1, 3.",
        "The logs lack epochs: Dataset004_Tiny, A, fold 2.",
    ]
    cost = read_cost(logs).set_index("fold")
    assert cost.loc["0", ["epochs", "seconds_per_epoch", "total_hours"]].tolist() == pytest.approx([3, 20, 60 / 3600])
    assert cost.index.tolist() == ["0", "2"]


def test_nothing_at_all(trained):
    logs, left_out = read_logs(trained(None))
    assert logs.empty and list(logs.columns) == EPOCH_COLUMNS and len(left_out) == 1
    assert read_cost(logs).empty
    assert read_logs([])[1] == []


@pytest.mark.parametrize(
    ("run", "debug", "steps"),
    [
        ("nnUNetTrainer", None, 250),
        ("nnUNetTrainerCPR_100iters", None, 100),
        ("nnUNetTrainerCPRmine", None, 250),
        ("nnUNetTrainerCPRmine", {"num_iterations_per_epoch": "50"}, 50),  # nnU-Net writes numbers as text
        ("nnUNetTrainer", {}, 250),
    ],
)
def test_steps_of_an_epoch(tmp_path, run, debug, steps):
    if debug is not None:
        (tmp_path / "debug.json").write_text(json.dumps(debug))
    assert steps_per_epoch(run, tmp_path) == steps


@pytest.mark.parametrize("number", ["9" * 40, "9" * 5000, "1.2.3", "nan"])
def test_numbers_that_nobody_wrote_are_passed_over(tmp_path, number):
    write_log(tmp_path, {0: (1.0, 1.0, [0.5], 60), 1: (1.0, 1.0, [0.5], 60), 2: (1.0, 1.0, [0.5], 60)})
    (path,) = tmp_path.glob("training_log_*.txt")
    text = path.read_text().replace("Epoch 2", f"Epoch {number}")
    first, last = text.rsplit("Epoch time: 60", 1)
    path.write_text(first + f"Epoch time: {number}" + last)
    assert read_log(tmp_path)["epoch"].tolist() == [0, 1]


def test_a_log_that_is_no_file_is_passed_over(tmp_path):
    write_log(tmp_path, {0: (0.5, -0.5, [0.5], 10.0)})
    os.mkfifo(tmp_path / "training_log_2026_1_1_1_1_1.txt")
    (tmp_path / "training_log_2026_1_1_1_1_2.txt").mkdir()
    assert len(read_log(tmp_path)) == 1
    (tmp_path / "checkpoint_latest.pth").touch()
    assert "is of a training that was not finished" in newer_training(tmp_path)  # which reads the logs, too
