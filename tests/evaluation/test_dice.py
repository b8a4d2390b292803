import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from nnunet_cpr.evaluation.dice import CASE_COLUMNS, compare, read_cases

LABELS = {"background": 0, "left": 1, "right": 2}


def segmentation(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(2, 2, 2)


REFERENCE = {
    "a": segmentation(1, 1, 1, 1, 2, 2, 0, 0),
    "b": segmentation(1, 1, 0, 0, 0, 0, 0, 0),
}
PREDICTED = {
    "a": segmentation(1, 1, 0, 0, 2, 2, 2, 2),  # left: 2*2/(2+4) = 2/3; right: 2*2/(4+2) = 2/3
    "b": segmentation(1, 1, 1, 1, 0, 0, 0, 0),  # left: 2*2/(4+2) = 2/3; right: empty in both
}


@pytest.fixture
def validation(tmp_path) -> Path:
    """A validation folder whose summary.json was written by nnU-Net itself."""
    evaluation = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions")
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    for name, cases in (("reference", REFERENCE), ("validation", PREDICTED)):
        (tmp_path / name).mkdir()
        for case, array in cases.items():
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / f"{case}.nii.gz")
    results = [
        evaluation.compute_metrics(
            str(tmp_path / "reference" / f"{case}.nii.gz"),
            str(tmp_path / "validation" / f"{case}.nii.gz"),
            SimpleITKIO(),
            [1, 2],
        )
        for case in REFERENCE
    ]
    means = {label: {"Dice": np.nanmean([r["metrics"][label]["Dice"] for r in results])} for label in (1, 2)}
    summary = {"metric_per_case": results, "mean": means, "foreground_mean": {"Dice": 2 / 3}}
    evaluation.recursive_fix_for_json_export(summary)
    evaluation.save_summary_json(summary, str(tmp_path / "validation" / "summary.json"))
    return tmp_path / "validation"


def test_dice_per_case_is_nnunets_and_the_hand_computed(validation):
    cases = read_cases(validation, "D", "T", 0, LABELS)
    assert list(cases.columns) == CASE_COLUMNS
    values = {(row.case, row.label): row.value for row in cases.itertuples()}
    assert values[("a", "left")] == values[("a", "right")] == values[("b", "left")] == pytest.approx(2 / 3, abs=1e-12)
    assert math.isnan(values[("b", "right")])
    assert len(values) == 4


def test_a_damaged_summary_is_named(validation):
    (validation / "summary.json").write_text('{"metric_per_case": [')
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        read_cases(validation, "D", "T", 0, LABELS)


def frame(**trainers: dict[str, dict[str, float]]) -> pd.DataFrame:
    rows = [
        ("D", trainer, 0, case, label, "Dice", value)
        for trainer, cases in trainers.items()
        for case, labels in cases.items()
        for label, value in labels.items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS)


def test_comparison_by_hand():
    cases = frame(
        base={"a": {"left": 0.5, "right": 0.8}, "b": {"left": 0.7, "right": 0.6}, "c": {"left": 0.6, "right": 0.7}},
        new={"a": {"left": 0.6, "right": 0.7}, "b": {"left": 0.7, "right": 0.9}, "c": {"left": 0.5, "right": 0.9}},
    )
    table = compare(cases, "base", "new").set_index("label")
    left, right, mean = table.loc["left"], table.loc["right"], table.loc["foreground mean"]
    assert (left.baseline_mean, left.trainer_mean) == pytest.approx((0.6, 0.6))
    assert (left.difference, left.difference_std) == pytest.approx((0.0, 0.1))  # +0.1, 0, -0.1
    assert (left.wins, left.ties, left.losses, left.n) == (1, 1, 1, 3)
    assert (right.baseline_mean, right.trainer_mean) == pytest.approx((0.7, 2.5 / 3))
    assert (right.wins, right.ties, right.losses) == (2, 0, 1)
    # case by case: a 0, b +0.15, c +0.05
    assert (mean.baseline_mean, mean.trainer_mean) == pytest.approx((0.65, (0.6 + 2.5 / 3) / 2))
    assert (mean.difference, mean.n) == pytest.approx((0.2 / 3, 3))
    assert mean.difference_std == pytest.approx(np.std([0, 0.15, 0.05], ddof=1))


def test_a_case_without_a_dice_is_left_out_of_the_pairs_and_of_n():
    cases = frame(
        base={"a": {"left": 0.5}, "b": {"left": math.nan}, "c": {"left": 0.7}},
        new={"a": {"left": 0.6}, "b": {"left": 0.0}, "c": {"left": 0.9}},
    )
    row = compare(cases, "base", "new").iloc[0]
    assert row.n == 2
    assert row.difference == pytest.approx(0.15)
    assert (row.baseline_mean, row.trainer_mean) == pytest.approx((0.6, 0.5))  # nnU-Net's means, each over its own


def test_nothing_to_compare():
    cases = frame(base={"a": {"left": math.nan}}, new={"a": {"left": math.nan}})
    with pytest.raises(ValueError, match="no Dice to compare"):
        compare(cases, "base", "new")


def test_means_equal_nnunets_summary(validation):
    summary = json.loads((validation / "summary.json").read_text())
    cases = pd.concat([read_cases(validation, "D", trainer, 0, LABELS) for trainer in ("base", "new")])
    table = compare(cases, "base", "new").set_index("label")
    assert table.loc["left"].trainer_mean == pytest.approx(summary["mean"]["1"]["Dice"], abs=1e-12)
    assert table.loc["right"].trainer_mean == pytest.approx(summary["mean"]["2"]["Dice"], abs=1e-12)
    assert table.loc["foreground mean"].trainer_mean == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)
    assert (table["difference"] == 0).all()
