"""Metrics of voxel counts: by hand, against scikit-learn on random masks, and through a report."""

import csv
import json
import math

import numpy as np
import pytest
from evaluation_helpers import noise, write_segmentation
from sklearn.metrics import precision_score, recall_score

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.metrics import METRICS, of_counts

NAN = math.nan


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "rve"),
    [
        ((6, 2, 4), 0.75, 0.6, -0.2),
        ((5, 5, 0), 0.5, 1.0, 1.0),
        ((0, 3, 2), 0.0, 0.0, 0.5),
        ((0, 0, 2), NAN, 0.0, -1.0),
        ((0, 3, 0), 0.0, NAN, NAN),
        ((0, 0, 0), NAN, NAN, NAN),
    ],
)
def test_by_hand(counts, precision, recall, rve):
    found = of_counts(dict(zip(("TP", "FP", "FN"), counts, strict=True)))
    expected = {"Precision": precision, "Recall": recall, "RVE": rve, "absolute RVE": abs(rve)}
    assert found == pytest.approx(expected, nan_ok=True)
    assert set(found) < set(METRICS)


@pytest.mark.parametrize("count", [-1, 1.5, NAN, math.inf, "3", None, True, 10**400])
def test_what_is_no_count(count):
    with pytest.raises(ValueError, match=r"^a FP of "):
        of_counts({"TP": 1, "FP": count, "FN": 1})


@pytest.fixture
def folders(tmp_path):
    """Two predictions of four cases with three labels; the third label is in none of the references."""
    (tmp_path / "ref").mkdir()
    labels = {"background": 0, "left": 1, "right": 2, "absent": 3}
    (tmp_path / "ref" / "dataset.json").write_text(json.dumps({"labels": labels}))
    for case in range(4):
        write_segmentation(tmp_path / "ref" / f"c{case}.nii.gz", noise(case, 2))
        for name, offset in (("a", 10), ("b", 20)):
            write_segmentation(tmp_path / name / f"c{case}.nii.gz", noise(case + offset, 3))
    return tmp_path


def test_a_report_has_them(folders, capsys):
    out = folders / "out"
    words = ["compare", "--reference", folders / "ref", "--pred", f"a={folders / 'a'}", f"b={folders / 'b'}"]
    assert main([str(word) for word in [*words, "--counts", "-np", 1, "-o", out]]) == 0
    with (out / "cases.csv").open() as file:
        values = {(r["trainer"], r["case"], r["label"], r["metric"]): r["value"] for r in csv.DictReader(file)}
    for case in range(4):
        for name, offset in (("a", 10), ("b", 20)):
            truth, found = noise(case, 2).ravel(), noise(case + offset, 3).ravel()
            for label, value in (("left", 1), ("right", 2)):
                masks = truth == value, found == value
                for metric, function in (("Precision", precision_score), ("Recall", recall_score)):
                    assert float(values[name, f"c{case}", label, metric]) == pytest.approx(function(*masks))
                rve = masks[1].sum() / masks[0].sum() - 1
                assert float(values[name, f"c{case}", label, "RVE"]) == pytest.approx(rve)
                assert float(values[name, f"c{case}", label, "absolute RVE"]) == pytest.approx(abs(rve))
            assert values[name, f"c{case}", "absent", "Recall"] == ""
            assert float(values[name, f"c{case}", "absent", "Precision"]) == 0
    with (out / "comparisons.csv").open() as file:
        compared = {row["metric"] for row in csv.DictReader(file)}
    assert compared == {"Dice", "Precision", "Recall", "absolute RVE"}
    page = (out / "report.md").read_text()
    assert "Of absolute RVE less is better" in page and "RVE over cases" in page
    assert "RVE: difference to" not in page.replace("absolute RVE", "")
    assert np.isfinite(float(values["a", "c0", "foreground mean", "RVE"]))
    capsys.readouterr()
