"""The demo's report is that of `nnunet-cpr compare`; what it adds is tried here."""

import re

import pandas as pd
import pytest

from nnunet_cpr.demo.report import format_table


def comparison(difference: float, n: int = 3) -> pd.DataFrame:
    row = {"baseline_mean": 0.8, "trainer_mean": 0.8 + difference, "difference": difference, "difference_std": 0.0123}
    counts = {"n": n, "wins": 2, "ties": 0, "losses": n - 2}
    return pd.DataFrame([{"label": label} | row | counts for label in ("gray matter", "foreground mean")])


def test_table():
    assert format_table(comparison(0.0124)).splitlines() == [
        "| Dice            | weight decay | CPR   | CPR - weight decay | n | higher / equal / lower |",
        "| --------------- | ------------ | ----- | ------------------ | - | ---------------------- |",
        "| gray matter     | 0.800        | 0.812 | +0.012 (sd 0.012)  | 3 | 2 / 0 / 1              |",
        "| foreground mean | 0.800        | 0.812 | +0.012 (sd 0.012)  | 3 | 2 / 0 / 1              |",
    ]


def test_one_case_has_no_spread():
    assert "sd" not in format_table(comparison(0.01, n=1))


@pytest.mark.parametrize("label", ["a|b", "<script>", "*a* _b_", "[a](b)", "two\nlines", "`a`"])
def test_labels_are_text_in_the_table(label):
    rows = comparison(0.1)
    rows.loc[0, "label"] = label
    line = format_table(rows).splitlines()[2]
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    assert len(cells) == 6
    assert re.sub(r"\\(.)", r"\1", cells[0].strip()) == " ".join(label.split())
    assert not re.search(r"(?<!\\)[<*_`\[]", cells[0])
    assert label in format_table(rows, str)  # as the terminal shows it
