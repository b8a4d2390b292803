"""nnU-Net's ensembles of two models, compared with single models."""

import json
import os

import pandas as pd
import pytest
from evaluation_helpers import write_training

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.readers.trainings import find_trainings

NAME = "Dataset004_Tiny"
FIRST, SECOND = "A__nnUNetPlans__2d", "A__nnUNetPlans__3d_fullres"
FOLDS = {0: ["a", "b"], 1: ["c", "d"]}
DICE = {"a": 0.91, "b": 0.82, "c": 0.73, "d": 0.64}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two models, and their ensemble, in whose summary.json the folds are mixed."""
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
        (tmp_path / variable / NAME).mkdir(parents=True)
    root, labels = tmp_path / "results", {"background": 0, "organ": 1}
    for fold, cases in FOLDS.items():
        for plain, lower in (("2d", 0.3), ("3d_fullres", 0.2)):
            folder = write_training(root, "A", fold, {case: {"1": DICE[case] - lower} for case in cases}, labels, NAME)
            model = folder.parent.with_name(f"A__nnUNetPlans__{plain}")
            if folder.parent != model:
                model.mkdir(exist_ok=True)
                folder.rename(model / folder.name)
                (folder.parent / "dataset.json").rename(model / "dataset.json")
    write_ensemble(root, FIRST, SECOND)
    return root


def write_ensemble(root, *members):
    folder = root / NAME / "ensembles" / "___".join(["ensemble", *members, "0_1"])
    folder.mkdir(parents=True)
    cases = [
        {"metrics": {"1": {"Dice": DICE[case]}}, "prediction_file": f"{folder}/{case}.nii.gz", "reference_file": "x"}
        for case in "dbac"
    ]
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    (folder / "dataset.json").write_text((root / NAME / FIRST / "dataset.json").read_text())
    return folder


def compare(tmp_path, *trainers):
    return main(["compare", "-d", NAME, "-tr", *trainers, "-f", "0", "1", "-o", str(tmp_path / "report")])


@pytest.mark.parametrize("run", ["A:2d+A", "A+A:2d"])
def test_an_ensemble_is_compared_fold_by_fold(results, tmp_path, run):
    assert compare(tmp_path, "A", f"both={run}") == 0
    cases = pd.read_csv(tmp_path / "report" / "cases.csv")
    found = cases[(cases["trainer"] == "both") & (cases["label"] == "organ")]
    assert dict(zip(found["case"], found["value"], strict=True)) == DICE
    assert dict(zip(found["case"], found["fold"], strict=True)) == {"a": 0, "b": 0, "c": 1, "d": 1}
    comparisons = pd.read_csv(tmp_path / "report" / "comparisons.csv")
    assert comparisons["difference"].tolist() == pytest.approx([0.2, 0.2])
    page = (tmp_path / "report" / "report.md").read_text()
    assert "3d\\_fullres, 2d, 2 trainers" in page and "no log: Dataset004\\_Tiny, A:2d" not in page


def test_one_that_was_not_made_is_named_with_the_command(results, tmp_path, capsys):
    (results / NAME / "ensembles" / f"ensemble___{FIRST}___{SECOND}___0_1" / "summary.json").unlink()
    assert compare(tmp_path, "A", "A:2d+A") == 2
    error = capsys.readouterr().err
    assert "2 of 4 trainings have no validation result" in error and "nnUNetv2_find_best_configuration" in error


def test_one_that_is_older_than_its_models_is_named(results, tmp_path):
    path = results / NAME / SECOND / "fold_1" / "validation" / "summary.json"
    later = path.stat().st_mtime + 7200
    os.utime(path, (later, later))
    assert compare(tmp_path, "A", "A:2d+A") == 0
    page = (tmp_path / "report" / "report.md").read_text().replace("\\", "")
    assert page.count(f"is older than {path}") == 1


def test_a_model_that_was_not_validated(results):
    (results / NAME / FIRST / "fold_0" / "validation" / "summary.json").unlink()
    arguments = [NAME], "3d_fullres", {"E": ["A:2d+A"]}, "nnUNetPlans", ["0", "1"]
    (usable,), (refused,) = find_trainings(*arguments, skip_missing=True)
    assert (usable.fold, refused.fold) == ("1", "0") and refused.unusable().startswith(str(results / NAME / FIRST))


def test_pretrained_weights_are_those_of_the_models(results, tmp_path):
    for fold in results.glob(f"{NAME}/A__*/fold_*"):
        (fold / "pretrained_weights.json").write_text(json.dumps({"file": "w.pth", "sha256": "0" * 64}))
    assert compare(tmp_path, "A", "A:2d+A") == 0
    assert "different weights" not in (tmp_path / "report" / "report.md").read_text()


def test_the_newest_of_several_and_of_more_folds(results):
    other = write_ensemble(results, SECOND, FIRST)
    os.utime(other / "summary.json", (1, 1))
    (results / NAME / "ensembles" / f"ensemble___{FIRST}___{SECOND}___0").mkdir()  # interrupted
    arguments = [NAME], "3d_fullres", {"E": ["A+A:2d"]}, "nnUNetPlans"
    for folds in (["1", "0"], ["0"]):
        found, _ = find_trainings(*arguments, folds)
        assert {one.folder.name for one in found} == {f"ensemble___{FIRST}___{SECOND}___0_1"}


def test_a_case_that_the_ensemble_lacks_is_named(results, tmp_path, capsys):
    path = results / NAME / "ensembles" / f"ensemble___{FIRST}___{SECOND}___0_1" / "summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"metric_per_case": content["metric_per_case"][1:]}))
    assert compare(tmp_path, "A", "A:2d+A") == 2
    assert f"{path} has no d; make it with" in capsys.readouterr().err


def test_a_case_that_is_there_twice_is_named(results, tmp_path, capsys):
    path = results / NAME / "ensembles" / f"ensemble___{FIRST}___{SECOND}___0_1" / "summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"metric_per_case": [*content["metric_per_case"], content["metric_per_case"][0]]}))
    assert compare(tmp_path, "A", "A:2d+A") == 2
    assert f"{path} holds d more than once" in capsys.readouterr().err


def test_the_same_ensemble_twice(tmp_path, capsys):
    assert compare(tmp_path, "A+A:2d", "A:2d+A") == 2
    assert "A:2d+A is named twice" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["A+", "+A", "A+B+C", "A:2d+:x"])
def test_what_cannot_be_an_ensemble(tmp_path, capsys, run):
    assert compare(tmp_path, "A", run) == 2
    assert f"cannot read {run}: write TRAINER" in capsys.readouterr().err


def test_ensembles_have_no_test_set(results, tmp_path, capsys):
    command = ["compare", "-d", NAME, "-tr", "A", "A:2d+A", "-f", "0", "1", "--test-set"]
    assert main([*command, "-o", str(tmp_path / "report")]) == 2
    assert "A:2d+A: ensembles have no test set here" in capsys.readouterr().err
