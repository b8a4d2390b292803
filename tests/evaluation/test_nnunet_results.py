"""Reading what nnU-Net left: its own numbers, and clear lines for what is missing or damaged."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from evaluation_helpers import write_training

from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.readers.summary_json import RETRAIN, read_summary
from nnunet_cpr.evaluation.readers.trainings import find_trainings
from nnunet_cpr.evaluation.results import CASE_COLUMNS, FOREGROUND
from nnunet_cpr.labels import foreground_labels

LABELS = {"left": 1, "right": 2}


def segmentation(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(2, 2, 2)


REFERENCE = {"a": segmentation(1, 1, 1, 1, 2, 2, 0, 0), "b": segmentation(1, 1, 0, 0, 0, 0, 0, 0)}
PREDICTED = {
    "a": segmentation(1, 1, 0, 0, 2, 2, 2, 2),  # left: 2*2/(2+4) = 2/3; right: 2*2/(4+2) = 2/3
    "b": segmentation(1, 1, 1, 1, 0, 0, 0, 0),  # left: 2*2/(4+2) = 2/3; right: empty in both
}


def read_cases(folder, labels):
    table = read_summary(folder / "summary.json").table(labels, False, RETRAIN)
    return table.assign(dataset="D", trainer="T", run="T", fold="0")[CASE_COLUMNS]


@pytest.fixture(params=["labels", "regions"])
def evaluated(tmp_path, request) -> tuple[Path, dict]:
    """A validation folder whose summary.json was written by nnU-Net itself."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    for name, cases in (("reference", REFERENCE), ("validation", PREDICTED)):
        (tmp_path / name).mkdir()
        for case, array in cases.items():
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / f"{case}.nii.gz")
    regions = [1, 2] if request.param == "labels" else [(1, 2), 2]
    named = LABELS if request.param == "labels" else {"both": (1, 2), "right": 2}
    folder = tmp_path / "validation"
    compute_metrics_on_folder(
        str(tmp_path / "reference"), str(folder), str(folder / "summary.json"), SimpleITKIO(), ".nii.gz", regions,
        num_processes=1,
    )  # fmt: skip
    return folder, named


def test_values_are_nnunets_own(evaluated):
    folder, named = evaluated
    summary = json.loads((folder / "summary.json").read_text())
    cases = read_cases(folder, named)
    assert list(cases.columns) == CASE_COLUMNS
    assert sorted(cases["case"].unique()) == ["a", "b"]
    table = statistics.summarize(statistics.add_foreground(cases)).set_index("label")
    for name, label in named.items():
        assert table.loc[name, "mean"] == pytest.approx(summary["mean"][str(label)]["Dice"], abs=1e-12)
    for key in ("mean", "mean_over_folds"):
        assert table.loc[FOREGROUND, key] == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)
    if "left" in named:
        values = {(row.case, row.label): row.value for row in cases.itertuples()}
        assert values["a", "left"] == values["a", "right"] == values["b", "left"] == pytest.approx(2 / 3, abs=1e-12)
        assert math.isnan(values["b", "right"])


@pytest.mark.parametrize(
    "damage",
    [
        "",
        '{"metric_per_case": [',
        "[]",
        '{"metric_per_case": []}',
        '{"metric_per_case": [{"metrics": {"1": {}}, "prediction_file": "a.nii.gz"}]}',
        '{"metric_per_case": [{"metrics": {"1": 3}, "prediction_file": "a.nii.gz"}]}',
        '{"metric_per_case": [{"metrics": {"1": {"Dice": 8.5}}, "prediction_file": "a.nii.gz"}]}',
        '{"metric_per_case": [{"metrics": {"1": {"Dice": 1e999}}, "prediction_file": "a.nii.gz"}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_summary_is_named(tmp_path, damage):
    (tmp_path / "summary.json").write_text(damage)
    with pytest.raises(ValueError, match=r"summary\.json is missing or damaged .* --val") as error:
        read_cases(tmp_path, LABELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1.0000001", "a Dice of 1.0000001)"),
        ("-1e-9", "a Dice of -1e-09)"),
        ('"NaN"', "a Dice of 'NaN')"),
        ("null", "a Dice of None)"),
        ("true", "a Dice of True)"),
        ("Infinity", "a Dice of inf)"),
        ("1" + "0" * 400, "a Dice of 1000"),
        ("1" + "0" * 5000, "not valid JSON"),
    ],
)
def test_a_dice_that_is_none_is_told_to_the_last_digit(tmp_path, written, said):
    good = '{"metric_per_case": [{"metrics": {"1": {"Dice": 0.5}}, "prediction_file": "a.nii.gz"}]}'
    (tmp_path / "summary.json").write_text(good.replace("0.5", written))
    with pytest.raises(ValueError, match=r"summary\.json is missing or damaged .* --val") as error:
        read_cases(tmp_path, {"left": 1})
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_summary_of_version_1(tmp_path):
    of_case = {"1": {"Dice": 0.9}, "reference": "labelsTr/a.nii.gz", "test": "validation_raw/a.nii.gz"}
    summary = {"author": "Fabian", "name": "D", "results": {"all": [of_case], "mean": {"1": {"Dice": 0.9}}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"nnU-Net version 1 wrote it.* as folders: --reference FOLDER --pred"):
        read_cases(tmp_path, {"left": 1})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a.nii.gz", "a.nii.gz"), "holds a more than once"),
        (("a.nii.gz", "x/a.mha"), "holds a more than once"),
        (("a.nii.gz", "b\udc80.nii.gz"), "has no UTF-8 name"),
    ],
)
def test_cases_that_cannot_be_told_apart_or_shown(tmp_path, files, message):
    cases = [{"metrics": {"1": {"Dice": 0.5}}, "prediction_file": file} for file in files]
    (tmp_path / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    with pytest.raises(ValueError, match=message):
        read_cases(tmp_path, {"left": 1})


def test_every_label_counts_whatever_it_is_called(tmp_path):
    """Values against names that look like values, columns and the foreground mean: the mean over all, by hand."""
    names = {"2": 1, "1": 2, "foreground mean": 3, "label": 4, "nan": 5, "mean ": 6, "mean": 7}
    dice = {str(value): value / 10 for value in names.values()}
    fold = write_training(tmp_path, "A", 0, {"a": dice, "b": dice}, {"background": 0} | names)
    labels = foreground_labels(json.loads((fold.parent / "dataset.json").read_text()))
    table = statistics.summarize(statistics.add_foreground(read_cases(fold / "validation", labels)))
    means = table.set_index("label")["mean"]
    assert means.index.is_unique and len(means) == 8
    assert means.drop(FOREGROUND).to_dict() == pytest.approx(
        {"2": 0.1, "1": 0.2, "foreground mean (label 3)": 0.3, "label": 0.4, "nan": 0.5,
         "mean (label 6)": 0.6, "mean (label 7)": 0.7}
    )  # fmt: skip
    assert means[FOREGROUND] == pytest.approx(0.4)


@pytest.mark.parametrize("labels", [{"left": 1}, {"left": 1, "right": 3}, {"left": 1, "right": 2, "more": 3}])
def test_other_labels_than_dataset_json(tmp_path, labels):
    fold = write_training(tmp_path, "A", 0, {"a": {"1": 0.5, "2": 0.5}}, {})
    with pytest.raises(ValueError, match=r"has the labels 1, 2, but dataset\.json says"):
        read_cases(fold / "validation", labels)


def test_foreground_labels():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    assert foreground_labels({"labels": labels}) == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}


def test_missing_trainings_are_all_named(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr("nnunet_cpr.evaluation.readers.nnunet_results.dataset_name", lambda _: "Dataset004_Tiny")
    write_training(tmp_path, "A", 0, {"a": {"1": 0.5}}, {"x": 1})
    found, _ = find_trainings(["4"], "3d_fullres", {"A": ["A"]}, "nnUNetPlans", ["0"])
    assert [(t.dataset, t.trainer, t.fold) for t in found] == [("Dataset004_Tiny", "A", "0")]
    with pytest.raises(ValueError, match="2 of 3 trainings have no validation result") as error:
        find_trainings(["4"], "3d_fullres", {"A": ["A"]}, "nnUNetPlans", ["0", "1", "2"])
    assert "fold_1" in str(error.value) and "fold_2" in str(error.value) and "fold_0" not in str(error.value)


def test_results_folder_not_set(monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(ValueError, match="nnUNet_results is not set"):
        find_trainings(["4"], "3d_fullres", {"A": ["A"]}, "nnUNetPlans", ["0"])


@pytest.mark.parametrize("value", [-1, 65536, 1.5, math.inf, math.nan, 10**400, None, {}, "text", [1, None], [[1]]])
def test_what_no_label_can_be(value):
    with pytest.raises(ValueError, match="labels are whole numbers from 0 to 65535"):
        foreground_labels({"labels": {"background": 0, "odd": value}})
