"""Lesion-wise metrics: masks made by hand, and a slow way to the same with SciPy's components on random masks."""

import csv
import json
import math

import numpy as np
import pytest
from evaluation_helpers import write_segmentation
from scipy import ndimage

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.lesions import METRICS, RULES, compare_lesions

NAN = math.nan


def boxes(*corners, shape=(20, 20, 20)):
    """A mask of boxes, each from one corner to another (exclusive)."""
    mask = np.zeros(shape, bool)
    for low, high in corners:
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


ONE = ((1, 1, 1), (5, 5, 5))  # 64 voxels
TWO = ((10, 10, 10), (14, 14, 14))
HALF_OF_ONE = ((1, 1, 1), (3, 5, 5))
SPECK = ((17, 17, 1), (18, 18, 2))


@pytest.mark.parametrize(
    ("true", "predicted", "f1", "sensitivity", "dice"),
    [
        ([ONE, TWO], [ONE, TWO], 1, 1, 1),
        ([ONE, TWO], [ONE], 2 / 3, 0.5, 0.5),
        ([ONE], [ONE, TWO], 2 / 3, 1, 0.5),
        ([ONE, TWO], [HALF_OF_ONE, SPECK], 2 / 4, 0.5, (2 * 32 / 96) / 3),
        ([ONE], [TWO], 0, 0, 0),
        ([], [ONE], 0, NAN, 0),
        ([ONE], [], 0, 0, 0),
        ([], [], NAN, NAN, NAN),
    ],
)
def test_by_hand(true, predicted, f1, sensitivity, dice):
    found = compare_lesions(boxes(*true), boxes(*predicted))
    assert found == pytest.approx(dict(zip(METRICS, (f1, sensitivity, dice), strict=True)), nan_ok=True)


def test_pieces_that_touch_at_a_corner_are_one_lesion():
    corner = ((5, 5, 5), (7, 7, 7))
    assert compare_lesions(boxes(ONE, corner), boxes(ONE))["Lesion sensitivity"] == 1
    plane = np.eye(6, dtype=bool)
    assert compare_lesions(plane, plane & (np.arange(6) < 2))["Lesion F1"] == 1


def test_what_brats_takes_for_one_lesion():
    near = ((9, 1, 1), (13, 5, 5))  # four voxels from ONE: the dilations by 3 touch
    true = boxes(ONE, near)
    assert compare_lesions(true, boxes(ONE))["Lesion sensitivity"] == 0.5
    found = compare_lesions(true, boxes(ONE), rule=RULES["brats"])
    assert found == pytest.approx({"Lesion F1": 1, "Lesion sensitivity": 1, "Lesion Dice": 2 * 64 / (64 + 128)})
    beside = boxes(((6, 1, 1), (8, 5, 5)))  # shares no voxel with ONE, but lies within its reach
    assert compare_lesions(boxes(ONE), beside)["Lesion F1"] == 0
    assert compare_lesions(boxes(ONE), beside, rule=RULES["brats"])["Lesion F1"] == 1


def test_brats_leaves_small_lesions_out_by_their_volume():
    small = boxes(TWO, ((1, 1, 1), (3, 3, 3)))  # 64 and 8 voxels
    for predicted, expected in ((boxes(TWO), 1), (small, 1), (boxes(TWO, SPECK), 2 / 3)):
        assert compare_lesions(small, predicted, rule=RULES["brats"])["Lesion F1"] == pytest.approx(expected)
    large_voxels = compare_lesions(small, boxes(TWO), [2.0, 2.0, 2.0], RULES["brats"])
    assert large_voxels["Lesion sensitivity"] == 0.5


def slowly(true, predicted, spacing, dilation, smallest):
    """BraTS's procedure on whole volumes, lesion by lesion, with SciPy."""
    around, touching = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    grow = (lambda mask: ndimage.binary_dilation(mask, around, dilation)) if dilation else (lambda mask: mask)
    merged, count = ndimage.label(grow(true), touching)
    pieces, predicted_count = ndimage.label(predicted, touching)
    used, dices, missed = set(), [], 0
    for number in range(1, count + 1):
        lesion = true & (merged == number)
        mine = set(np.unique(pieces[grow(lesion)])) - {0}
        used |= mine
        if lesion.sum() * np.prod(spacing) > smallest:
            union = np.isin(pieces, list(mine))
            dices += [2 * (union & lesion).sum() / (union.sum() + lesion.sum())] if mine else []
            missed += not mine
    false = predicted_count - len(used)
    total = len(dices) + missed + false
    return {
        "Lesion F1": 2 * len(dices) / (2 * len(dices) + missed + false) if total else NAN,
        "Lesion sensitivity": len(dices) / (len(dices) + missed) if len(dices) + missed else NAN,
        "Lesion Dice": sum(dices) / total if total else NAN,
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rule", list(RULES))
def test_random_masks(seed, rule):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(26, 24, 20)), 1.5)
    other = field + 0.6 * ndimage.gaussian_filter(rng.normal(size=field.shape), 1.5)
    level = np.quantile(field, rng.uniform(0.9, 0.98))
    true, predicted, spacing = field > level, other > level, rng.uniform(0.5, 2.5, 3).tolist()
    expected = slowly(true, predicted, spacing, RULES[rule].dilation, RULES[rule].smallest)
    assert compare_lesions(true, predicted, spacing, RULES[rule]) == pytest.approx(expected, nan_ok=True)


def test_a_report_has_them(tmp_path, capsys):
    (tmp_path / "ref").mkdir()
    (tmp_path / "ref" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "tumor": 2}}))
    for case in range(3):
        truth = 2 * boxes(ONE, TWO).astype(np.uint8) + boxes(SPECK)
        write_segmentation(tmp_path / "ref" / f"c{case}.nii.gz", truth)
        write_segmentation(tmp_path / "good" / f"c{case}.nii.gz", truth)
        write_segmentation(tmp_path / "half" / f"c{case}.nii.gz", np.where(boxes(TWO), 0, truth))
    words = ["compare", "--reference", tmp_path / "ref", "--pred", f"good={tmp_path / 'good'}",
             f"half={tmp_path / 'half'}", "-np", 1]  # fmt: skip
    out = tmp_path / "out"
    assert main([str(word) for word in [*words, "--lesions", "tumor", "--lesion-rule", "brats", "-o", out]]) == 0
    with (out / "cases.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"].startswith("Lesion")]
    assert {row["label"] for row in rows} == {"tumor", "foreground mean"}
    values = {(row["trainer"], row["metric"]): float(row["value"]) for row in rows}
    assert values["good", "Lesion F1"] == 1 and values["half", "Lesion sensitivity"] == 0.5
    assert values["half", "Lesion Dice"] == pytest.approx(0.5) and values["half", "Lesion F1"] == pytest.approx(2 / 3)
    assert "connected components of tumor; matched by the rule brats" in (out / "report.md").read_text()
    capsys.readouterr()
    assert main([str(word) for word in [*words, "--lesions", "tumour", "-o", tmp_path / "none"]]) == 2
    assert "has no label tumour for lesions; there are organ, tumor" in capsys.readouterr().err
