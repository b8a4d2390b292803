"""Whether a result is of the training, split, plans and data that are there now.

The folders look as nnU-Net 2.8 leaves them; its logs' lines are copied from real ones.
"""

import json
import os

import pytest

from nnunet_cpr.evaluation.readers.nnunet_results import Training
from nnunet_cpr.evaluation.readers.trainings import find_trainings

NAME, RUN = "Dataset004_Tiny", "nnUNetTrainerSGD_3epochs"
PLANS = {
    "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres", "batch_size": 2, "patch_size": [64, 64, 64],
                   "spacing": [1.0, 1.0, 1.25], "architecture": {}},
    "3d_other": {"inherits_from": "3d_fullres", "batch_size": 4},
}  # fmt: skip
FINGERPRINT = {"spacings": [[1.0, 1.0, 1.25]], "foreground_intensity_properties_per_channel": {"0": {"mean": 51.25}}}
SPLITS = [{"train": ["c", "d", "e"], "val": ["a", "b"]}, {"train": ["a", "b", "e"], "val": ["c", "d"]}]


def epochs(first: int, last: int) -> list[str]:
    return [text for k in range(first, last + 1) for text in (f"Epoch {k}", "Epoch time: 9.0 s")]


SPLIT = "This split has 3 training and 2 validation cases."
VALIDATION = ["predicting a", "Validation complete", "Mean Validation Dice:  0.9"]
WHOLE = [SPLIT, *epochs(0, 2), "Training done.", SPLIT, *VALIDATION]


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A finished fold, as it is when nothing is wrong."""
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    here = tmp_path / "preprocessed" / NAME
    model = tmp_path / "results" / NAME / f"{RUN}__nnUNetPlans__3d_fullres"
    (model / "fold_0" / "validation").mkdir(parents=True)
    here.mkdir(parents=True)
    write(here / "splits_final.json", SPLITS)
    write(here / "dataset_fingerprint.json", FINGERPRINT)
    write(model / "dataset_fingerprint.json", FINGERPRINT)
    write(here / "nnUNetPlans.json", {"configurations": PLANS})
    write(model / "plans.json", {"configurations": PLANS})
    fold = model / "fold_0"
    write(fold / "debug.json", {"configuration_manager": repr(PLANS["3d_fullres"])})
    summarize(fold, "a", "b")
    log(fold, "2026_1_1_10_00_00", WHOLE)
    (fold / "checkpoint_final.pth").touch()
    return Training(NAME, "SGD", RUN, "0", fold)


def write(path, content):
    path.write_text(json.dumps(content))


def summarize(fold, *cases):
    per_case = [{"prediction_file": f"/x/{case}.nii.gz", "metrics": {"1": {"Dice": 0.9}}} for case in cases]
    write(fold / "validation" / "summary.json", {"metric_per_case": per_case})


def log(fold, when, texts):
    (fold / f"training_log_{when}.txt").write_text("".join(f"2026-01-01 10:00:00.0: {text} \n" for text in texts))


def later(path, seconds):
    now = path.stat().st_mtime
    os.utime(path, (now + seconds, now + seconds))


def test_nothing_is_wrong(training):
    assert training.unusable() == ""
    assert training.doubt() is None


def no_checkpoints(training):
    (training.folder / "checkpoint_final.pth").unlink()


def no_records(training):
    for path in training.folder.glob("*.*"):
        path.unlink()


def copied_in_an_unlucky_order(training):
    later(training.folder / "checkpoint_final.pth", 10**7)


def copied_without_logs(training):
    no_logs(training)
    later(training.folder / "checkpoint_final.pth", 600)


def no_logs(training):
    for path in training.folder.glob("training_log*"):
        path.unlink()


def validated_again(training):
    """With --val: a log of its own, without epochs."""
    log(training.folder, "2026_1_3_10_00_00", VALIDATION)


def validated_again_but_interrupted(training):
    log(training.folder, "2026_1_3_10_00_00", ["predicting a"])


def continued_after_the_end(training):
    """With --c: nnU-Net saves the final checkpoint anew and validates."""
    log(training.folder, "2026_1_3_10_00_00", [SPLIT, "Training done.", "predicting a", "Validation complete"])


def resumed_twice(training):
    no_logs(training)
    log(training.folder, "2026_1_1_10_00_00", [SPLIT, *epochs(0, 1)])
    log(training.folder, "2026_1_1_9_00_00", [SPLIT, *epochs(0, 0)])
    log(training.folder, "2026_1_2_10_00_00", [SPLIT, *epochs(2, 2), "Training done.", "Validation complete"])


def another_configuration_was_added(training):
    path = training.folder.parents[2].parent / "preprocessed" / NAME / "nnUNetPlans.json"
    write(path, {"configurations": PLANS | {"3d_small": {"inherits_from": "3d_fullres", "batch_size": 9}}})


def the_fingerprint_differs_by_rounding(training):
    path = training.folder.parents[2].parent / "preprocessed" / NAME / "dataset_fingerprint.json"
    path.write_text(path.read_text().replace("51.25", "51.2500001"))


@pytest.mark.parametrize(
    "do",
    [no_checkpoints, no_records, no_logs, copied_in_an_unlucky_order, copied_without_logs, validated_again,
     validated_again_but_interrupted, continued_after_the_end, resumed_twice, another_configuration_was_added,
     the_fingerprint_differs_by_rounding],
)  # fmt: skip
def test_what_is_legitimate(training, do):
    do(training)
    assert training.unusable() == ""
    assert training.doubt() is None


def retrained_and_stopped(training):
    """By one of our trainers, which renames what is of an earlier training."""
    (training.folder / "checkpoint_final.pth").rename(training.folder / "checkpoint_final.pth.old")
    (training.folder / "checkpoint_latest.pth").touch()
    log(training.folder, "2026_1_2_10_00_00", epochs(0, 1))
    return "is at epoch 1 and was not validated"


def retrained_and_stopped_without_logs(training):
    retrained_and_stopped(training)
    no_logs(training)
    return "checkpoint_latest.pth is of a training that was not finished"


def retrained_and_stopped_before_nnunet_saved(training):
    log(training.folder, "2026_1_2_10_00_00", epochs(0, 0))
    return "is at epoch 0 and was not validated"


def retrained_but_not_validated(training):
    log(training.folder, "2026_1_2_10_00_00", [*epochs(0, 2), "Training done.", "predicting a"])
    return "is at epoch 2 and was not validated"


def a_final_checkpoint_of_the_next_day(training):
    no_logs(training)
    later(training.folder / "checkpoint_final.pth", 86400)
    return "checkpoint_final.pth is newer than the result"


@pytest.mark.parametrize(
    "do",
    [retrained_and_stopped, retrained_and_stopped_without_logs, retrained_and_stopped_before_nnunet_saved,
     retrained_but_not_validated, a_final_checkpoint_of_the_next_day],
)  # fmt: skip
def test_a_result_of_an_earlier_training(training, do):
    reason = do(training)
    assert reason in training.unusable()
    wanted = ([NAME], "3d_fullres", {"SGD": [RUN]}, "nnUNetPlans", ["0"])
    with pytest.raises(ValueError, match="1 of 1 trainings have no validation result") as error:
        find_trainings(*wanted)
    assert reason in str(error.value)
    assert find_trainings(*wanted, skip_missing=True) == ([], [training])


@pytest.mark.parametrize(
    ("validated", "text"),
    [
        ("ac", "it was validated with c and without b, unlike fold 0 of "),
        ("a", "it was validated without b, unlike"),
        ("abcde", "it was validated with c, d, e, unlike"),  # predictions of an earlier split stay and are counted
        ("abcdefg", "it was validated with c, d, e and 2 more cases, unlike"),
    ],
)
def test_other_cases_than_the_splits(training, validated, text):
    summarize(training.folder, *validated)
    doubt = training.doubt()
    assert doubt.certain
    assert text in doubt.text


def test_a_changed_split(training, tmp_path):
    write(tmp_path / "preprocessed" / NAME / "splits_final.json", SPLITS[::-1])
    assert "with a, b and without c, d" in training.doubt().text


def test_a_split_with_other_training_cases(training, tmp_path):
    write(tmp_path / "preprocessed" / NAME / "splits_final.json", [{"train": ["c", "d"], "val": ["a", "b"]}])
    assert "trained with a split of 3 and 2 cases" in training.doubt().text


def test_a_split_that_cannot_be_compared(training, tmp_path):
    path = tmp_path / "preprocessed" / NAME / "splits_final.json"
    for text in ("[]", "{", "[3]", '[{"train": 1, "val": 2}]'):
        path.write_text(text)
        assert training.doubt() is None
    all_cases = Training(NAME, "SGD", RUN, "all", training.folder)
    write(path, SPLITS)
    assert all_cases.doubt() is None


def test_nothing_but_the_result_and_a_split_for_trying_things_out(training, tmp_path):
    no_records(training)
    summarize(training.folder, "a", "c")
    assert training.doubt().certain
    write(tmp_path / "preprocessed" / NAME / "splits_final.json", [{"train": ["a", "b", "c"], "val": ["a", "b"]}])
    assert not training.doubt().certain


@pytest.mark.parametrize("record", ["debug.json", "plans.json"])
def test_changed_plans(training, tmp_path, record):
    changed = json.loads(json.dumps(PLANS))
    changed["3d_fullres"]["patch_size"] = [32, 64, 64]
    write(tmp_path / "preprocessed" / NAME / "nnUNetPlans.json", {"configurations": changed})
    if record == "plans.json":
        (training.folder / "debug.json").unlink()
    assert "another patch_size than that of 3d_fullres in " in training.doubt().text


def test_plans_are_resolved_as_nnunet_does(training):
    plans = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    from nnunet_cpr.evaluation.readers.provenance import resolved

    theirs = plans.PlansManager({"configurations": PLANS}).get_configuration("3d_other")
    assert resolved(PLANS, "3d_other") == theirs.configuration


def test_changed_data(training, tmp_path):
    path = tmp_path / "preprocessed" / NAME / "dataset_fingerprint.json"
    path.write_text(path.read_text().replace("51.25", "62.5"))
    assert "dataset_fingerprint.json has changed since it was trained" in training.doubt().text


def test_a_first_stage_that_was_trained_again(training, tmp_path):
    model = training.folder.parent
    cascade = model.rename(model.with_name(model.name.replace("3d_fullres", "3d_cascade_fullres"))) / "fold_0"
    first = cascade.parent.with_name(model.name.replace("3d_fullres", "3d_lowres")) / "fold_3"
    first.mkdir(parents=True)
    other = Training(NAME, "SGD", RUN, "0", cascade)

    def trained(fold, day, texts):
        lines = (f"2026-01-{day:02} 10:00:00.0: {text} \n" for text in texts)
        (fold / f"training_log_2026_1_{day}_10_00_00.txt").write_text("".join(lines))

    trained(first, 1, WHOLE)
    trained(cascade, 2, WHOLE)
    (cascade / "training_log_2026_1_1_10_00_00.txt").unlink()
    trained(first, 3, [SPLIT, *VALIDATION])  # validated again only
    assert other.doubt() is None
    trained(first, 4, WHOLE)
    assert other.doubt().certain and other.doubt().text == f"its first stage was trained again since: {first}"
    trained(cascade, 5, [SPLIT, *epochs(1, 2), *VALIDATION])  # goes on with what it has learned before
    assert other.doubt() is not None
    trained(cascade, 6, WHOLE)
    assert other.doubt() is None


def test_nothing_to_compare_with(training, monkeypatch):
    summarize(training.folder, "x")
    monkeypatch.delenv("nnUNet_preprocessed")
    assert training.doubt() is None
