import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


def demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "nnunet_cpr.cli", "demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=os.environ | {"COLUMNS": "120"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no progress bars where there is no terminal
    return done.stdout


def demo_elsewhere(out: Path, arguments: tuple[str, ...]) -> list[Path]:
    demo("--out", str(out), *arguments)
    return list((out / "report").iterdir())


@pytest.mark.slow
def test_the_embedded_demo_on_the_cpu_twice(tmp_path):
    pytest.importorskip("nilearn")
    out = tmp_path / "demo"
    arguments = ("--out", str(out), "--steps", "20", "--device", "cpu", "--seed", "1")
    first = demo(*arguments)

    (report,) = (out / "report").iterdir()
    names = {path.name for path in report.rglob("*.*")}
    assert {"report.html", "report.md", "table.tex", "cases.csv", "comparisons.csv", "costs.csv"} <= names
    for figure in ("differences", "curves", "constraints", "slice"):
        assert any(name.startswith(f"{figure}-") for name in names)
    page, website = (report / "report.md").read_text(), (report / "report.html").read_text()
    assert "not for claims" in page and "not for claims" in website and "not for claims" in first
    command = "nnUNetv2_train 152 3d_small 0 -tr nnUNetTrainerCPR_ws10_20epochs_1iters_seed1"
    assert f"\n{command}" in page and command in website

    # the report's numbers are those of nnU-Net's own summaries
    table = pd.read_csv(report / "comparisons.csv").set_index("label")
    summaries = sorted(out.glob("nnUNet_results/*/*/fold_0/validation/summary.json"))
    assert ["nnUNetTrainerCPR" in str(path) for path in summaries] == [True, False]
    for path, column in zip(summaries, ("trainer_mean", "baseline_mean"), strict=True):
        summary = json.loads(path.read_text())
        assert table.loc["gray matter", column] == pytest.approx(summary["mean"]["1"]["Dice"], abs=1e-12)
        assert table.loc["white matter", column] == pytest.approx(summary["mean"]["2"]["Dice"], abs=1e-12)
        assert table.loc["foreground mean", column] == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)

    # nnU-Net validated on the blocks of the middle slab only
    assert {Path(case["prediction_file"]).name[:5] for case in summary["metric_per_case"]} == {"slab2"}

    before = [path.stat().st_mtime_ns for path in summaries]
    second = demo(*arguments)
    assert second.count("done before") == 4
    assert [path.stat().st_mtime_ns for path in summaries] == before
    assert (report / "report.md").read_text() == page

    # trained anew, it gives the same numbers, whoever augments
    (other,) = demo_elsewhere(tmp_path / "again", arguments[2:])
    assert (other / "cases.csv").read_text() == (report / "cases.csv").read_text()
