"""`nnunet-cpr compare` from nnU-Net's folders to a report."""

import json
import math
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import frame, write_segmentation, write_training

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.comparison import apply_penalty, apply_policy, check_cases
from nnunet_cpr.evaluation.report import write as report
from nnunet_cpr.evaluation.report.layout import REPORT
from nnunet_cpr.evaluation.results import CASE_COLUMNS, FOREGROUND

LABELS = {"background": 0, "left": 1, "right": 2}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two trainers (one with two seeds), two folds of 12 cases."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    rng = np.random.default_rng(0)
    for run, gain in (("Base", 0.0), ("New_seed0", 0.05), ("New_seed1", 0.04)):
        for fold in range(2):
            cases = {
                f"c{fold}{i:02}": {"1": rng.uniform(0.7, 0.9) + gain, "2": rng.uniform(0.7, 0.9)} for i in range(12)
            }
            write_training(tmp_path / "results", run, fold, cases, LABELS)
    return tmp_path / "results"


def arguments(out, *more):
    trainers = ["-tr", "Base", "New=New_seed0,New_seed1"]
    return ["compare", "-d", "Dataset004_Tiny", "-f", "0", "1", *trainers, "-o", str(out), *more]


def test_from_folders_to_a_report(results, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(arguments(out)) == 0
    said = capsys.readouterr().out
    assert "report.html" in said and "n = 24 only" in said and "one run (seed) of Base" in said
    cases = pd.read_csv(out / "cases.csv", dtype={"fold": str})
    assert list(cases.columns) == CASE_COLUMNS
    assert len(cases) == 3 * 24 * 3
    stored = json.loads(
        (results / "Dataset004_Tiny/New_seed1__nnUNetPlans__3d_fullres/fold_1/validation/summary.json").read_text()
    )["metric_per_case"]
    for case in stored:
        name = case["prediction_file"].split("/")[-1].removesuffix(".nii.gz")
        row = cases[(cases["run"] == "New_seed1") & (cases["case"] == name) & (cases["label"] == "left")]
        assert row["value"].item() == pytest.approx(case["metrics"]["1"]["Dice"], abs=1e-12)
    table = pd.read_csv(out / "comparisons.csv").set_index("label")
    assert list(table.index) == ["left", "right", FOREGROUND]
    assert (table["n"] == 24).all() and (table["trainer"] == "New").all() and (table["baseline"] == "Base").all()
    assert 0.02 < table.loc["left", "difference"] < 0.08
    for name in ("report.html", "report.md", "summary.csv", "table.tex"):
        assert (out / name).stat().st_size > 100
    assert len(list((out / "figures").glob("*.svg"))) == len(list((out / "figures").glob("*.png"))) > 0


def test_the_same_request_as_yaml(results, tmp_path):
    (tmp_path / "study.yaml").write_text(
        "datasets: [Dataset004_Tiny]\nfolds: [0, 1]\noutput: b\n"
        "trainers:\n  Base: Base\n  New: [New_seed0, New_seed1]\n"
    )
    assert main(arguments(tmp_path / "a")) == 0
    assert main(["compare", "--config", str(tmp_path / "study.yaml")]) == 0
    for name in ("cases.csv", "summary.csv", "comparisons.csv", "table.tex"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-f", "4"], "3 of 9 trainings have no validation result"),
        (["-tr", "Unknown"], "2 of 8 trainings have no validation result"),
        (["-d", "999"], "999 is not a dataset"),
        (["--baseline", "Nobody"], "the baseline Nobody is not among"),
    ],
)
def test_mistakes_write_nothing(results, tmp_path, capsys, change, message):
    assert main(arguments(tmp_path / "report", *change)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_unequal_cases_are_an_error_or_intersected(results, tmp_path, capsys):
    path = results / "Dataset004_Tiny/Base__nnUNetPlans__3d_fullres/fold_0/validation/summary.json"
    summary = json.loads(path.read_text())
    summary["metric_per_case"] = summary["metric_per_case"][2:]
    path.write_text(json.dumps(summary))
    assert main(arguments(tmp_path / "report")) == 2
    assert "Base lacks c000, c001; --intersect" in capsys.readouterr().err
    assert main(arguments(tmp_path / "report", "--intersect")) == 0
    assert "2 of 24 cases are left out" in capsys.readouterr().out
    assert (pd.read_csv(tmp_path / "report" / "comparisons.csv")["n"] == 22).all()


def test_other_labels_are_an_error():
    cases = pd.concat([frame(a={"1": {"x": 1.0}}), frame(b={"1": {"y": 1.0}})])
    with pytest.raises(ValueError, match=r"D: b has the labels \['y'\], but a has \['x'\]"):
        check_cases(cases, intersect=True)


def test_a_case_counts_once():
    cases = pd.concat([frame(fold="0", a={"1": {"x": 1.0}}), frame(fold="1", a={"1": {"x": 1.0}})])
    with pytest.raises(ValueError, match="a validated 1 in several folds"):
        check_cases(cases, intersect=False)


def test_no_common_case():
    with pytest.raises(ValueError, match="no case in common"):
        check_cases(frame(a={"1": {"x": 1.0}}, b={"2": {"x": 1.0}}), intersect=True)


@pytest.mark.parametrize(("policy", "expected"), [("nan", math.nan), ("0", 0.0), ("1", 1.0)])
def test_empty_masks(policy, expected):
    cases = pd.concat([frame(a={"1": {"x": math.nan, "y": 0.5}}), frame(metric="HD95", a={"1": {"x": math.nan}})])
    kept, touched = apply_policy(cases, policy)
    assert touched == 1
    assert kept["value"].tolist() == pytest.approx([expected, 0.5, math.nan], nan_ok=True)


@pytest.mark.parametrize(("hd95", "expected"), [(None, math.nan), (374.0, 374.0)])
def test_missed_structures(hd95, expected):
    """x is missed in one case, absent in another, and far off in a third."""
    values = {"NSD": [0.0, math.nan, 0.0], "HD95": [math.nan, math.nan, 50.0], "MASD": [math.nan, math.nan, 40.0]}
    parts = [frame(metric=name, a={f"c{k}": {"x": of[k], "y": 1.0} for k in range(3)}) for name, of in values.items()]
    cases = pd.concat(parts, ignore_index=True)
    found, missed = apply_penalty(cases, hd95)
    assert missed == 1
    kept = found.set_index(["metric", "case", "label"])["value"]
    assert kept["HD95", :, "x"].tolist() == pytest.approx([expected, math.nan, 50.0], nan_ok=True)
    kept["HD95", "c0", "x"] = math.nan
    assert kept.equals(cases.set_index(["metric", "case", "label"])["value"])  # nothing else has changed


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys; from nnunet_cpr.cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'nnunetv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_surface_metrics_of_trainings(tmp_path, monkeypatch, capsys):
    """From files to the table: a prediction that is one voxel too wide, one that fits, and an ignore label."""
    pytest.importorskip("monai")
    results, truth = tmp_path / "results", tmp_path / "preprocessed" / "Dataset004_Tiny" / "gt_segmentations"
    monkeypatch.setenv("nnUNet_results", str(results))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    truth.mkdir(parents=True)
    mask = np.zeros((12, 12, 12), dtype=np.uint8)
    mask[3:8, 3:8, 3:8] = 1
    wide = mask.copy()
    wide[8, 3:8, 3:8] = 1
    affine = np.diag([2.0, 1.0, 1.0, 1.0])  # the added voxel is 2 mm long
    for case in ("a", "b"):
        nib.save(nib.Nifti1Image(mask, affine), truth / f"{case}.nii.gz")
    for trainer, predicted in (("Base", mask), ("New", wide)):
        fold = write_training(
            results, trainer, 0, {case: {"1": 0.9} for case in "ab"}, {"background": 0, "x": 1, "ignore": 2}
        )
        for case in ("a", "b"):
            nib.save(nib.Nifti1Image(predicted, affine), fold / "validation" / f"{case}.nii.gz")
    command = ["compare", "-d", "Dataset004_Tiny", "-f", "0", "-tr", "Base", "New", "--surface", "-np", "1"]
    assert main([*command, "-o", str(tmp_path / "report")]) == 0
    assert "ignore label" in capsys.readouterr().out
    cases = pd.read_csv(tmp_path / "report" / "cases.csv")
    values = cases[cases["label"] == "x"].set_index(["trainer", "case", "metric"])["value"]
    assert (values["Base", "a", "NSD"], values["Base", "a", "HD95"], values["Base", "a", "MASD"]) == (1, 0, 0)
    assert values["New", "b", "HD95"] == pytest.approx(2.0, abs=1e-5)
    assert 0.5 < values["New", "b", "NSD"] < 1
    table = pd.read_csv(tmp_path / "report" / "comparisons.csv").set_index(["label", "metric"])
    assert (table.loc[("x", "HD95"), "losses"], table.loc[("x", "NSD"), "losses"]) == (2, 2)


@pytest.mark.parametrize("way", ["flags", "yaml", "Decathlon"])
def test_the_ignore_label_is_mentioned_on_every_way_in(tmp_path, monkeypatch, capsys, way):
    """As for trainings, above."""
    pytest.importorskip("monai")
    for name in ("draw_comparison", "draw_slices"):  # takes long
        monkeypatch.setattr(report, name, lambda results: [])
    truth = np.zeros((8, 6, 5), dtype=np.uint8)
    truth[1:3, 1:4, 1:4] = 1
    truth[5:] = 2
    for name in ("labels", "one", "two"):
        write_segmentation(tmp_path / name / "a.nii.gz", truth if name == "labels" else truth % 2)
    labels = {"background": 0, "x": 1, "ignore": 2}
    if way == "Decathlon":
        labels = {str(value): name for name, value in labels.items()}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    command = ["--reference", str(tmp_path / "labels"), "--pred", *(f"{n}={tmp_path / n}" for n in ("one", "two"))]
    if way == "yaml":
        (tmp_path / "c.yaml").write_text("reference: labels\npredictions: {one: one, two: two}\n")
        command = ["--config", str(tmp_path / "c.yaml")]
    command += ["-np", "1", "-o", str(tmp_path / "report")]
    said = "! Surface metrics count voxels with the ignore label as background; Dice leaves them out."
    assert main(["compare", *command]) == 0
    assert said not in capsys.readouterr().out
    assert main(["compare", *command, "--surface"]) == 0
    assert said in capsys.readouterr().out


def test_plain_folders(tmp_path, capsys):
    """The same numbers as by hand, with a case that one tool lacks."""
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    mask[:2] = 1
    half = np.zeros_like(mask)
    half[:1] = 1
    for name, array, cases in (("labels", mask, "abc"), ("one", mask, "abc"), ("two", half, "ab")):
        (tmp_path / name).mkdir()
        for case in cases:
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / f"{case}.nii.gz")
    command = ["compare", "--reference", str(tmp_path / "labels"), "-np", "1", "-o", str(tmp_path / "report")]
    command += ["--pred", f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}"]
    assert main(command) == 2
    assert "lacks 1 of 3 predictions: c.nii.gz" in capsys.readouterr().err
    assert main([*command, "--intersect"]) == 0
    assert "1 of 3 cases are left out" in capsys.readouterr().out
    row = pd.read_csv(tmp_path / "report" / "comparisons.csv").iloc[0]
    assert (row["n"], row["baseline_mean"], row["trainer_mean"]) == pytest.approx((2, 1, 2 / 3))


def test_false_positives_that_fall_out_of_the_pairs_are_told(results, tmp_path, capsys):
    """Label 2 is empty in half of the references; only Base leaves it empty, so only it is undefined there."""
    for path in results.rglob("summary.json"):
        summary = json.loads(path.read_text())
        for case in summary["metric_per_case"][:6]:
            case["metrics"]["2"]["Dice"] = math.nan if "/Base__" in str(path) else 0.0
        path.write_text(json.dumps(summary))
    assert main(arguments(tmp_path / "report")) == 0
    assert "undefined for Base but not for New in 12 places" in capsys.readouterr().out
    assert "the paired difference and the means disagree" in (tmp_path / "report" / "report.md").read_text()


def test_what_the_user_has_is_not_overwritten(results, tmp_path, capsys):
    mine = tmp_path / "paper"
    mine.mkdir()
    (mine / "table.tex").write_text("precious")
    assert main(arguments(mine)) == 2
    assert "holds no earlier report" in capsys.readouterr().err
    assert [f.name for f in mine.iterdir()] == ["table.tex"] and (mine / "table.tex").read_text() == "precious"
    assert main(arguments(mine / "table.tex")) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(arguments(tmp_path / "report")) == main(arguments(tmp_path / "report")) == 0


def test_an_output_of_the_user_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    """Their report and tables would be written over; a damaged request shows that nothing was read yet."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nowhere"))
    mine = tmp_path / "thesis"
    mine.mkdir()
    for name in ("report.html", "summary.csv"):
        (mine / name).write_text("mine")
    assert main(arguments(mine)) == 2
    assert capsys.readouterr().err == (
        f"nnunet-cpr: error: {mine} is not empty and holds no earlier report, but report.html; choose another folder, "
        "or move its files away\n"
    )
    assert {path.name: path.read_text() for path in mine.iterdir()} == {"report.html": "mine", "summary.csv": "mine"}


def test_what_the_user_has_changed_in_a_report_is_kept(results, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(arguments(out)) == 0
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"manifest.json"}
    assert [name for name in written if not REPORT.has(name)] == []
    figure = next(out.glob("figures/*.svg"))
    figure.write_text("drawn over by hand")
    capsys.readouterr()
    assert main(arguments(out)) == 2
    assert f"{figure} is not as an earlier report wrote it" in capsys.readouterr().err
    assert figure.read_text() == "drawn over by hand"


def test_nnunets_folder_may_be_in_the_home_folder(results, tmp_path, monkeypatch):
    """As an .env file or a container sets it, without a shell."""
    monkeypatch.setenv("HOME", str(results.parent))
    monkeypatch.setenv("nnUNet_results", f"~/{results.name}")
    assert main(arguments(tmp_path / "report")) == 0


def test_repeated_names_count_once(results, tmp_path):
    assert main(arguments(tmp_path / "report", "-d", "Dataset004_Tiny", "-f", "1", "0")) == 0
    assert len(pd.read_csv(tmp_path / "report" / "cases.csv")) == 3 * 24 * 3


def test_labels_may_be_in_another_order():
    cases = pd.concat([frame(a={"1": {"x": 1.0, "y": 1.0}}), frame(b={"1": {"y": 1.0, "x": 1.0}})])
    assert len(check_cases(cases, intersect=False)[0]) == 4


def test_configurations_and_plans_side_by_side(results, tmp_path, capsys):
    """A copied model of another configuration, and one of other plans, with other Dice."""
    dataset = results / "Dataset004_Tiny"
    for name, add in (("nnUNetPlans__2d", -0.2), ("nnUNetResEncUNetMPlans__3d_fullres", 0.05)):
        model = shutil.copytree(dataset / "Base__nnUNetPlans__3d_fullres", dataset / f"Base__{name}")
        for path in model.glob("fold_*/validation/summary.json"):
            content = json.loads(path.read_text())
            for case in content["metric_per_case"]:
                for values in case["metrics"].values():
                    values["Dice"] = min(1.0, max(0.0, values["Dice"] + add))
            path.write_text(json.dumps(content))
    out = tmp_path / "setups"
    runs = ["3d=Base", "2d=Base:2d", "ResEnc=Base:3d_fullres:nnUNetResEncUNetMPlans"]
    assert main(["compare", "-d", "4", "-f", "0", "1", "-tr", *runs, "-o", str(out)]) == 0
    summary = pd.read_csv(out / "summary.csv").set_index(["trainer", "label", "metric"])["mean"]
    assert summary["2d", "left", "Dice"] < summary["3d", "left", "Dice"] < summary["ResEnc", "left", "Dice"]
    title = (out / "report.md").read_text().splitlines()[0].replace("\\", "")
    assert ": 3d_fullres, 2d, 3d_fullres of nnUNetResEncUNetMPlans, 3 trainers" in title
    capsys.readouterr()
    assert main(["compare", "-d", "4", "-f", "0", "-tr", "Base", "Base:2d:Other", "-o", str(tmp_path / "none")]) == 2
    assert "Base__Other__2d" in capsys.readouterr().err
