"""Names of labels, trainers and cases from files and flags, in everything that `nnunet-cpr compare` writes.

Each name looks like something else: a value, a column, the foreground mean, a formula, markup. Nothing may take it so.
"""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import write_segmentation

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation import intervals
from nnunet_cpr.evaluation.figures.drawing import short
from nnunet_cpr.evaluation.report import write as report
from nnunet_cpr.evaluation.report.csv import csv_table
from nnunet_cpr.evaluation.results import FOREGROUND
from nnunet_cpr.plotting import default_style

LABELS = ["foreground mean", "nan", "3", "2", "$a$ $b$", "_x", "=1+1", "liver", "liver ", "", "label", "<i>|*"]
SHOWN = [
    "foreground mean (label 1)", "nan", "3", "2", "$a$ $b$", "_x", "=1+1", "liver (label 8)", "liver (label 9)",
    "(label 10)", "label", "<i>|*",
]  # fmt: skip
UNNAMED = 13
CASES = ["nan", "-1", "=2", "c d"]
TRAINERS = {"@SUM(A1)": "one", "trainer $x$ $y$": "two"}


def names_in(path, column: str) -> list[str]:
    """A column of a table, with what csv_table says of its quotes undone."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert not any(row[column].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
    return [row[column].removeprefix("'") for row in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two folders, 14 labels of 20 voxels each, of which a prediction has lost some: (folder, Dice by hand)."""
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    truth = np.zeros(8 * 8 * 8, np.uint8)
    for value in range(1, UNNAMED + 1):
        truth[20 * value : 20 * value + 20] = value
    dice = {}
    for case in CASES:
        write_segmentation(folder / "labels" / f"{case}.nii.gz", truth.reshape(8, 8, 8))
        for name in TRAINERS:
            predicted = truth.copy()
            for value, label in enumerate([*SHOWN, str(UNNAMED)], 1):
                kept = int(rng.integers(5, 20))
                predicted[20 * value + kept : 20 * value + 20] = 0
                dice[name, case, label] = 2 * kept / (kept + 20)
            write_segmentation(folder / TRAINERS[name] / f"{case}.nii.gz", predicted.reshape(8, 8, 8))
    described = {"background": 0} | {label: value for value, label in enumerate(LABELS, 1)}
    (folder / "dataset.json").write_text(json.dumps({"labels": described}))
    flags = ["--reference", str(folder / "labels"), "--pred", *(f"{n}={folder / f}" for n, f in TRAINERS.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 20)
        patch.setattr(report, "draw_slices", lambda results: [])  # takes long
        assert main(["compare", *flags, "-np", "1", "-o", str(folder / "report")]) == 0
    return folder / "report", dice


def test_every_label_of_every_case_is_there_with_its_own_value(world):
    out, dice = world
    columns = ("trainer", "case", "label", "value")
    keys = [names_in(out / "cases.csv", column) for column in columns]
    found = {(trainer, case, label): float(value) for trainer, case, label, value in zip(*keys, strict=True)}
    assert len(found) == len(keys[0])
    means = {key: found.pop(key) for key in list(found) if key[2] == FOREGROUND}
    assert found == pytest.approx(dice, abs=1e-12)
    for (trainer, case, _), mean in means.items():
        assert mean == pytest.approx(np.mean([v for (t, c, _), v in dice.items() if (t, c) == (trainer, case)]))


@pytest.mark.parametrize(("table", "rows"), [("summary", 2), ("trainings", 2), ("comparisons", 1)])
def test_every_label_has_one_row_a_trainer(world, table, rows):
    out, _ = world
    labels = names_in(out / f"{table}.csv", "label")
    assert sorted(labels) == sorted([*SHOWN, str(UNNAMED), FOREGROUND] * rows)
    assert set(names_in(out / f"{table}.csv", "trainer")) == set(TRAINERS if rows == 2 else list(TRAINERS)[1:])


def test_pages_and_figures_show_names_as_they_are(world):
    out, _ = world
    assert (out / "report.html").read_text(encoding="utf-8").count("foreground mean (label 1)") >= 2
    assert "<i>|*" not in (out / "report.html").read_text(encoding="utf-8")
    assert r"\<i\>\|\*" in (out / "report.md").read_text(encoding="utf-8")
    texts = {
        name: [text for element in ElementTree.parse(out / "figures" / f"{name}.svg").iter() if (text := element.text)]
        for name in ("labels-Dice-labels", "distribution-Dice-labels")
    }
    for name, found in texts.items():
        for label in ("$a$ $b$", "_x", "=1+1", "nan", "<i>|*", "(label 10)", "liver (label 8)", "liver (label 9)"):
            assert label in found, (name, label)
        assert "trainer $x$ $y$" in found


def test_formulas_in_tables_are_texts_and_come_back():
    names = ["=1", "+1", "-1", "@x", "\tq", "'=1", "''", "a=1", "", "nan", 'a"b', "a,b", "a\nb", None]
    frame = pd.DataFrame({"label": names, "value": -np.arange(len(names)) / 2})
    rows = list(csv.reader(io.StringIO(csv_table(frame), newline="")))[1:]
    for row, name, value in zip(rows, names, frame["value"], strict=True):
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert row[0].removeprefix("'") == (name or "") and float(row[1]) == value
    plain = pd.DataFrame({"label": ["a", "b"], "value": [-1.5, np.nan]})
    assert csv_table(plain) == plain.to_csv(index=False)


@pytest.mark.parametrize("name", ["$a$ $b$", "$", "a\\$b$c", "$\\frac$", "{$x_1$}"])
def test_no_name_is_a_formula_in_a_figure(name):
    from matplotlib.figure import Figure

    with default_style():
        text = Figure().text(0, 0, short(name))
    shown, is_math = text._preprocess_math(text.get_text())
    assert not is_math and shown == name
