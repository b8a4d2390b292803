"""Dice per case as nnU-Net computed it, and what two trainers' Dice say when compared case by case."""

import json
from pathlib import Path

import pandas as pd

CASE_COLUMNS = ["dataset", "trainer", "fold", "case", "label", "metric", "value"]
FOREGROUND = "foreground mean"


def read_cases(validation: Path, dataset: str, trainer: str, fold: int, labels: dict[str, int]) -> pd.DataFrame:
    """Read Dice per case and label from the summary.json that nnU-Net wrote into a fold's validation folder.

    One row a case and label. Dice is NaN where label and prediction are both empty, as nnU-Net has it.
    """
    path = validation / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for case in summary["metric_per_case"]:
            case_name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
            for label, value in labels.items():
                if value != 0:
                    dice = case["metrics"][str(value)]["Dice"]
                    rows.append((dataset, trainer, fold, case_name, label, "Dice", dice))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete its folder and validate again") from error
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype({"value": float})


def compare(cases: pd.DataFrame, baseline: str, trainer: str) -> pd.DataFrame:
    """Compare a trainer with a baseline on the same cases: one row a label, and one for the foreground mean.

    The means are nnU-Net's: over the cases per label, and for the foreground over the labels' means. The difference
    is trainer minus baseline, paired by case; n counts the cases where both are defined. `difference_std` is the
    standard deviation over cases (n - 1).
    """
    values = cases.pivot(index="case", columns=["trainer", "label"], values="value")
    if values[baseline].isna().all(axis=None) or values[trainer].isna().all(axis=None):
        raise ValueError("no Dice to compare: every case is empty in label and prediction")
    labels = list(cases["label"].unique())
    means = {name: values[name][labels].mean() for name in (baseline, trainer)}
    differences = values[trainer][labels] - values[baseline][labels]
    differences[FOREGROUND] = differences.mean(axis=1)
    rows = []
    for label in [*labels, FOREGROUND]:
        known = differences[label].dropna()
        rows.append(
            {
                "dataset": cases["dataset"].iloc[0],
                "trainer": trainer,
                "baseline": baseline,
                "label": label,
                "metric": "Dice",
                "n": len(known),
                "baseline_mean": means[baseline].mean() if label == FOREGROUND else means[baseline][label],
                "trainer_mean": means[trainer].mean() if label == FOREGROUND else means[trainer][label],
                "difference": known.mean(),
                "difference_std": known.std(ddof=1),
                "wins": int((known > 0).sum()),
                "ties": int((known == 0).sum()),
                "losses": int((known < 0).sum()),
            }
        )
    return pd.DataFrame(rows)
