"""Whole studies with test sets and stand-ins for nnU-Net: predicted once, by the folds that are there now."""

import csv
import json
import signal

import numpy as np
import pytest
from batch_helpers import DATASET, plan_cascade, raw_with_test_set, write_nifti

pytest.importorskip("psutil", reason="needs nnunet-cpr[batch], which needs Python 3.11")
PATIENCE = 300  # seconds

TWO = "[nnUNetTrainerSGD_3epochs, nnUNetTrainerCPR_ws100_3epochs]"
CASES = ["test_0", "test_1", "test_2"]


@pytest.fixture
def study(world):
    raw_with_test_set(world.folder / "raw")
    return world.study("test_set: true\n", trainers=TWO)


def results(world):
    return sorted(world.results.glob("*/test_set_folds_0_1"))


def test_a_study_ends_with_the_test_set_in_its_report(world, study):
    first = world.batch(study)
    assert first.returncode == 0, first.stderr + first.stdout
    predictions = world.events("predict")
    assert [one["cases"] for one in predictions] == [CASES, CASES]
    for one in predictions:
        words = one["arguments"]
        assert words[words.index("-f") :][:5] == ["-f", "0", "1", "-chk", "checkpoint_final.pth"]
        before = [e["fold"] for e in world.events()[: world.events().index(one)] if e["event"] == "done"]
        assert {f"{one['model']}/0", f"{one['model']}/1"} <= set(before)  # all of its folds were trained then
    assert "Test set (fold ensembles)" in first.stdout
    with (world.output() / "report" / "test_set_cases.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "organ"]
    expected = {
        (model.name.split("__")[0], case["prediction_file"].split("/")[-1].removesuffix(".nii.gz")): (
            case["metrics"]["1"]["Dice"]
        )
        for folder in results(world)
        for model in [folder.parent]
        for case in json.loads((folder / "summary.json").read_text())["metric_per_case"]
    }
    assert {(row["run"], row["case"]): float(row["value"]) for row in rows} == pytest.approx(expected)
    assert len(rows) == 6
    page = (world.output() / "report" / "report.html").read_text()
    assert page.index('id="comparison"') < page.index('id="test-set"') < page.index('id="figures"')

    by_hand = world.folder / "by hand"
    words = ["compare", "-d", 4, "-tr", *TWO.strip("[]").split(", "), "-f", 0, 1, "--test-set", "-o", by_hand]
    assert world.run(*words).returncode == 0
    for name in ("test_set_cases.csv", "test_set_comparisons.csv", "test_set_table.tex"):
        assert (by_hand / name).read_text() == (world.output() / "report" / name).read_text()

    begun = world.events()
    second = world.batch(study)
    assert second.returncode == 0, second.stderr
    assert "2 test sets to predict, 2 done before" in second.stdout
    assert world.events() == begun


def test_status_tells_how_far_each_test_set_is(world, study):
    states = json.loads(world.run("status", study, "--json").stdout)
    assert [state["state"] for state in states if state["fold"] == "test set"] == ["missing"] * 2
    assert world.batch(study).returncode == 0
    (model, _) = (folder.parent for folder in results(world))
    (model / "fold_1" / "checkpoint_final.pth").write_text("other weights")
    shown = world.batch(study, "--dry-run").stdout
    assert "outdated  trained again since: fold 1" in shown
    assert "2 test sets: 1 predicted, 1 outdated" in shown


def retrain(world):
    (results(world)[0].parent / "fold_1" / "checkpoint_final.pth").write_text("other weights")


def change_image(world):
    write_nifti(world.folder / "raw" / DATASET / "imagesTs" / "test_1_0000.nii.gz", np.ones((4, 5, 6)))


def change_label(world):
    write_nifti(world.folder / "raw" / DATASET / "labelsTs" / "test_1.nii.gz", np.ones((4, 5, 6)))


def add_case(world):
    raw = world.folder / "raw" / DATASET
    write_nifti(raw / "imagesTs" / "more_0000.nii.gz", 2 + np.arange(120).reshape(4, 5, 6))
    write_nifti(raw / "labelsTs" / "more.nii.gz", np.eye(5))


def lose_record(world):
    (results(world)[0] / "nnunet_cpr_test_set.json").unlink()


@pytest.mark.parametrize(
    ("change", "again", "renamed"),
    [
        (retrain, 1, ["test_set_folds_0_1.old"]),
        (change_image, 2, ["test_set_folds_0_1.old"] * 2),
        (change_label, 2, ["summary.json.old"] * 2),
        (add_case, 2, ["test_set_folds_0_1.old"] * 2),
        (lose_record, 1, ["test_set_folds_0_1.old"]),
    ],
)
def test_what_has_changed_is_predicted_again_and_the_earlier_result_is_kept(world, study, change, again, renamed):
    assert world.batch(study).returncode == 0
    before = len(world.events("predict"))
    change(world)
    compared = world.run("compare", "-d", 4, "-tr", *TWO.strip("[]").split(", "), "-f", 0, 1, "--test-set")
    assert compared.returncode == 2 and len(compared.stderr.splitlines()) == 1  # never compared as it is
    done = world.batch(study)
    assert done.returncode == 0, done.stderr
    later = world.events("predict")[before:]
    assert len(later) == again
    labels = sorted(path.name for path in (world.folder / "raw" / DATASET / "labelsTs").iterdir())
    for folder in results(world):
        cases = json.loads((folder / "summary.json").read_text())["metric_per_case"]
        assert [case["prediction_file"].split("/")[-1] for case in cases] == labels
    if change is change_label:
        assert not any(one["cases"] for one in later)  # evaluated only
    assert [path.name for path in sorted(world.results.glob("*/**/*.old"))] == renamed


def test_a_cascade_is_given_what_its_first_stage_predicts(world):
    raw_with_test_set(world.folder / "raw")
    plan_cascade(world.folder / "preprocessed")
    study = world.study("test_set: true\nconfiguration: 3d_cascade_fullres\n", trainers=TWO, folds="[1]")
    done = world.batch(study)
    assert done.returncode == 0, done.stderr + done.stdout
    predictions = [(one["model"], one["arguments"]) for one in world.events("predict")]
    first = [words[words.index("-f") :][:6] for model, words in predictions if model.endswith("3d_lowres")]
    assert first == [["-f", "0", "1", "2", "3", "4"]] * 2
    begun = world.events()
    assert world.batch(study).returncode == 0
    assert world.events() == begun
    lowres = world.results / "nnUNetTrainerSGD_3epochs__nnUNetPlans__3d_lowres"
    (lowres / "fold_3" / "checkpoint_final.pth").write_text("other weights")
    shown = " ".join(world.batch(study, "--dry-run").stdout.split())
    assert "outdated trained again since: fold 3; to be predicted again" in shown
    assert "missing after that of 3d_lowres" in shown
    compared = world.run("compare", "-d", 4, "-c", "3d_cascade_fullres", "-f", 1, "--test-set",
                         "-tr", *TWO.strip("[]").split(", "))  # fmt: skip
    assert compared.returncode == 2 and "trained again since: fold 3 of 3d_lowres" in compared.stderr
    assert world.batch(study).returncode == 0
    later = [one["model"] for one in world.events("predict")[len(predictions) :]]
    assert later == [lowres.name, lowres.name.replace("3d_lowres", "3d_cascade_fullres")]


def test_an_unlabeled_image_is_not_predicted(world, study):
    write_nifti(world.folder / "raw" / DATASET / "imagesTs" / "unlabeled_0000.nii.gz", np.eye(6))
    assert world.batch(study).returncode == 0
    assert [one["cases"] for one in world.events("predict")] == [CASES, CASES]


def test_a_prediction_that_failed_is_gone_on_with(world, study):
    obstacle = world.folder / "control" / "fail-predict"
    obstacle.touch()
    first = world.batch(study)
    assert first.returncode == 1
    assert "test set: failed with exit code 1, see " in first.stdout
    assert "0 of 4 trainings and 2 of 2 test sets are not done" in first.stderr
    assert "test_set_folds_0_1: exit code 1: RuntimeError: told to fail to predict" in first.stderr
    assert "2 test sets: 2 failed" in first.stdout
    assert "Test set: nothing can be compared yet" in first.stdout  # the cross-validation is reported all the same
    assert not list(world.results.glob("*/*/summary.json"))

    obstacle.unlink()
    half = results(world)[0] / "test_0.nii.gz"
    half.write_bytes(half.read_bytes()[:-20])  # killed while it was written
    second = world.batch(study)
    assert second.returncode == 0, second.stderr
    assert sorted(one["cases"] for one in world.events("predict")[2:]) == [CASES, CASES[1:]]
    assert len(world.events("done")) == 4  # nothing was trained again


def test_a_signal_stops_a_prediction(world, study):
    (world.folder / "control" / "hold-predict").touch()
    process = world.start("batch", study)
    world.wait_for_events("predict")
    assert "1 running" in world.run("status", study).stdout
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    world.check_nothing_left()
    (world.folder / "control" / "hold-predict").unlink()
    again = world.batch(study)
    assert again.returncode == 0, again.stderr
    assert len(world.events("done")) == 4


def test_a_fold_that_is_not_done_holds_its_test_set_back(world, study):
    world.fail("nnUNetTrainerCPR_ws100_3epochs", 1)
    done = world.batch(study)
    assert done.returncode == 1
    assert "1 of 4 trainings and 1 of 2 test sets are not done" in done.stderr
    assert "missing  after fold 1" in done.stdout
    assert [one["model"].split("__")[0] for one in world.events("predict")] == ["nnUNetTrainerSGD_3epochs"]


def test_trainings_and_predictions_share_the_gpus(world):
    raw_with_test_set(world.folder / "raw")
    study = world.study("test_set: true\ndevice: cuda\n", trainers=TWO)
    done = world.batch(study, "--gpus", "0,1")
    assert done.returncode == 0, done.stderr
    assert {one["gpu"] for one in world.events("predict")} <= {"0", "1"}
    assert not world.events("clash")


def test_another_folder_of_that_name_is_kept(world, study):
    model = world.results / "nnUNetTrainerSGD_3epochs__nnUNetPlans__3d_fullres"
    (model / "test_set_folds_0_1").mkdir(parents=True)
    (model / "test_set_folds_0_1" / "mine.txt").write_text("mine")
    assert world.batch(study).returncode == 0
    assert (model / "test_set_folds_0_1.old" / "mine.txt").read_text() == "mine"


def test_several_seeds_are_averaged_per_case(world):
    raw_with_test_set(world.folder / "raw")
    study = world.study("test_set: true\nseeds: [0, 1]\n", trainers=TWO, folds="[0]")
    done = world.batch(study)
    assert done.returncode == 0, done.stderr
    with (world.output() / "report" / "test_set_summary.csv").open() as file:
        rows = {row["trainer"]: row for row in csv.DictReader(file) if row["label"] == "organ"}
    for name, row in rows.items():
        folders = world.results.glob(f"{name}_seed*/test_set_folds_0/summary.json")
        means = [json.loads(path.read_text())["mean"]["1"]["Dice"] for path in folders]
        assert (row["n"], row["runs"], len(means)) == ("3", "2", 2)
        assert float(row["mean"]) == pytest.approx(sum(means) / 2)
