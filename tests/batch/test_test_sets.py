"""Whole studies with test sets and stand-ins for nnU-Net: predicted once, by the folds that are there now."""

import csv
import json

import pytest
from batch_helpers import raw_with_test_set

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

    begun = world.events()
    second = world.batch(study)
    assert second.returncode == 0, second.stderr
    assert "2 test sets to predict, 2 done before" in second.stdout
    assert world.events() == begun
