"""Which weights a fold was trained from, after everything that may happen in its folder."""

import pytest

from nnunet_cpr.evaluation.readers.nnunet_results import Training
from nnunet_cpr.evaluation.readers.starting_weights import (
    FILE,
    compare_weights,
    note_weights,
    noted_weights,
    other_weights,
)

ONE, TWO = "1" * 64, "2" * 64


def log(fold, number, *epochs):
    """A process of nnU-Net that did these epochs."""
    text = "".join(f"2026-01-01 00:00:00.0: Epoch {epoch}\n" for epoch in epochs)
    (fold / f"training_log_2026_1_{number}_0_0_0.txt").write_text(text)


def begin(fold, sha256, number=2):
    note_weights(fold, "w.pth" if sha256 else "", sha256)
    log(fold, number, 0, 1)


@pytest.fixture
def fold(tmp_path):
    fold = tmp_path / "fold_0"
    fold.mkdir()
    return fold


@pytest.mark.parametrize("found", ["", ONE])
@pytest.mark.parametrize("wanted", ["", ONE, TWO])
def test_only_the_same_weights_pass(fold, found, wanted):
    begin(fold, found)
    log(fold, 3, 2, 3)  # resumed
    reason = other_weights(fold, wanted)
    assert (reason == "") == (found == wanted)
    assert ("w.pth" in reason) == bool(reason and found)


def test_a_training_begun_anew_by_hand_does_not_pass(fold):
    log(fold, 1, 0, 1)  # an earlier one
    begin(fold, ONE)
    assert noted_weights(fold) == ("w.pth", ONE)
    log(fold, 3, 0)
    assert noted_weights(fold) == ("", "")
    assert "was not trained from the study's pretrained weights" in other_weights(fold, ONE)


@pytest.mark.parametrize("second", ["", TWO])
def test_a_training_begun_anew_by_the_batch_is_noted_anew(fold, second):
    begin(fold, ONE)
    begin(fold, second, number=3)
    assert noted_weights(fold)[1] == second


@pytest.mark.parametrize("content", ["", "[]", "3", '{"file": "w.pth"}', '{"file": 1, "sha256": 2, "earlier_logs": 3}'])
def test_a_damaged_note_passes_for_nothing(fold, content):
    log(fold, 1, 0)
    (fold / FILE).write_text(content)
    assert other_weights(fold, "") and other_weights(fold, ONE)


def test_different_weights_in_one_comparison_are_said(tmp_path):
    def training(run, fold, sha256, dataset="Dataset004_Tiny"):
        folder = tmp_path / dataset / run / f"fold_{fold}"
        folder.mkdir(parents=True)
        begin(folder, sha256)
        return Training(dataset, run, run, fold, folder)

    same = [training("A", "0", ONE), training("B", "0", ONE)]
    assert compare_weights([*same, training("A", "0", "", "Dataset005_Other")]) == []
    (said,) = compare_weights([*same, training("B", "1", "")])
    assert said == (
        "Dataset004_Tiny: trainings began with different weights: A fold 0, B fold 0 from w.pth; "
        "B fold 1 from weights that are not noted."
    )
