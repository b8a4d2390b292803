"""Cautions on cases that were trained with, and on trainings of unequal length."""

import json

import pandas as pd
import pytest
from evaluation_helpers import write_training

from nnunet_cpr.evaluation.cautions import other_references, trained_with, unequal_lengths
from nnunet_cpr.evaluation.readers.trainings import find_trainings

NAME = "Dataset004_Tiny"
LABELS = {"background": 0, "left": 1}


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Two trainers, two folds of three cases."""
    for name in ("results", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    (tmp_path / "preprocessed" / NAME).mkdir(parents=True)
    for run in ("A", "B"):
        for fold in range(2):
            write_training(tmp_path / "results", run, fold, {f"c{fold}{k}": {"1": 0.5} for k in range(3)}, LABELS)
    trainers = {"A": ["A"], "B": ["B"]}
    return find_trainings([NAME], "3d_fullres", trainers, "nnUNetPlans", ["0", "1"])[0]


def split(tmp_path, first, second):
    content = [{"train": first, "val": ["c00", "c01", "c02"]}, {"train": second, "val": ["c10", "c11", "c12"]}]
    (tmp_path / "preprocessed" / NAME / "splits_final.json").write_text(json.dumps(content))


def test_a_proper_split_is_not_mentioned(trainings, tmp_path):
    assert trained_with(trainings) == []
    split(tmp_path, ["c10", "c11", "c12"], ["c00", "c01", "c02"])
    assert trained_with(trainings) == []


def test_cases_that_were_trained_with(trainings, tmp_path):
    split(tmp_path, ["c10", "c11", "c12"], ["c00", "c01", "c02", "c12", "c10"])
    assert trained_with(trainings) == [
        f"{NAME}: fold 1 was trained with 2 of its validation cases (c10, c12); their values say nothing of new cases "
        "(A, B)."
    ]


@pytest.mark.parametrize("text", ["[]", "[{}]", "{}", "nonsense", '[{"train": 3}, {"train": null}]'])
def test_a_damaged_split_says_nothing(trainings, tmp_path, text):
    (tmp_path / "preprocessed" / NAME / "splits_final.json").write_text(text)
    assert trained_with(trainings) == []


def count(training, changes=None):
    """Add nnU-Net's voxel counts to a summary: 100 true voxels, but in the cases of `changes`."""
    path = training.validation / "summary.json"
    content = json.loads(path.read_text())
    for case in content["metric_per_case"]:
        name = case["prediction_file"].split("/")[-1].removesuffix(".nii.gz")
        found = 40 if training.run == "A" else 60
        case["metrics"]["1"] |= {"TP": found, "FP": 3, "FN": (changes or {}).get(name, 100) - found}
    path.write_text(json.dumps(content))


def test_different_true_labels(trainings):
    assert other_references(trainings) == []  # without counts nothing is known
    for training in trainings:
        count(training)
    assert other_references(trainings) == []
    count(trainings[3], {"c12": 101, "c10": 99})
    assert other_references(trainings) == [
        f"{NAME}: B and A were validated against different true labels of c10, c12; their values cannot be compared."
    ]


def epochs(**steps):
    rows = [("D", trainer, f"{trainer}_seed0", str(fold), each) for trainer, of in steps.items()
            for fold, each in enumerate(of)]  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "trainer", "run", "fold", "step"])


def test_lengths():
    assert unequal_lengths(epochs(a=[250_000, 250_000], b=[250_000])) == []
    assert unequal_lengths(epochs(a=[250_000, 25_000], b=[25_000])) == [
        "D: the trainings are not equally long; optimizer steps: a 25,000 to 250,000; b 25,000."
    ]
    assert unequal_lengths(epochs()) == []
