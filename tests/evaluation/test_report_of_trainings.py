"""The figures of nnU-Net's trainings, from its folders to the page: curves, constraints, slices."""

import csv
import re
from html import unescape

import numpy as np
import pytest
import SimpleITK
from evaluation_helpers import write_log, write_trace, write_training

from nnunet_cpr.cli import main

DATASET = "Dataset004_Tiny"
RUNS = {"SGD": ["nnUNetTrainerSGD"], "CPR": ["nnUNetTrainerCPR_seed0", "nnUNetTrainerCPR_seed1"]}
ALL_RUNS = [run for runs in RUNS.values() for run in runs]
BEST_DICE = dict(zip(ALL_RUNS, (0.8, 0.9, 0.86), strict=True))
SHIFT = dict(zip(ALL_RUNS, (1, 2, 1), strict=True))
CASES = {0: ["a1", "a2"], 1: ["b1", "b2"]}
SHAPE = (10, 16, 12)  # z, y, x


def write_volume(path, array):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0)[: array.ndim])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def segmentation(shift, shape):
    """A box of label 1 with one of label 2 in it, the lower parts cut off."""
    array = np.zeros(shape, dtype=np.uint8)
    array[..., 3 + shift : 12, 2:10] = 1
    array[..., 5 + shift : 8, 4:8] = 2
    return array


def make_study(root, ending=".nii.gz", shape=SHAPE, labels=None):
    """Two folds of each training, with all that nnU-Net leaves."""
    labels = labels or {"background": 0, "left": 1, "right": 2}
    keys = [str(tuple(v) if isinstance(v, list) else v) for name, v in labels.items() if name != "background"]
    for run in ALL_RUNS:
        for fold, cases in CASES.items():
            worse = 0.02 if "CPR" in run else 0.01
            dice = {case: dict.fromkeys(keys, BEST_DICE[run] - worse * i) for i, case in enumerate(cases)}
            folder = write_training(root / "results", run, fold, dice, labels)
            description = folder.parent / "dataset.json"
            description.write_text(description.read_text().replace(".nii.gz", ending))
            write_log(folder, {e: (1 - 0.1 * e, 1.1 - 0.1 * e, [0.1 * e, 0.2 * e], 60 + e) for e in range(3)})
            if "CPR" in run:
                write_trace(folder, {e: {"w": (2.0, 1.9, 1e-4), "v": (1.0, np.inf, 0.0)} for e in range(3)})
            for case in cases:
                write_volume(folder / "validation" / f"{case}{ending}", segmentation(SHIFT[run], shape))
    image = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    for case in (case for cases in CASES.values() for case in cases):
        write_volume(root / "preprocessed" / DATASET / "gt_segmentations" / f"{case}{ending}", segmentation(0, shape))
        write_volume(root / "raw" / DATASET / "imagesTr" / f"{case}_0000{ending}", image)


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("results", "raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path


def compare(root):
    given = [f"{name}={','.join(runs)}" for name, runs in RUNS.items()]
    return main(["compare", "-d", DATASET, "-f", "0", "1", "-tr", *given, "-o", str(root / "report")])


def compare_folders(root, reference):
    """The first runs' segmentations of fold 0 as plain folders."""
    models = {name: root / "results" / DATASET / f"{runs[0]}__nnUNetPlans__3d_fullres" for name, runs in RUNS.items()}
    given = [f"{name}={model / 'fold_0' / 'validation'}" for name, model in models.items()]
    more = ["--intersect", "-np", "1", "-o", str(root / "report")]
    return main(["compare", "--reference", str(reference), "--pred", *given, *more])


def read(root):
    return (root / "report" / "report.html").read_text(encoding="utf-8")


def figures(root, ending="svg"):
    return sorted(path.stem for path in (root / "report" / "figures").glob(f"*.{ending}"))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_everything_is_drawn_and_described(root, ending):
    make_study(root, ending)
    assert compare(root) == 0
    new = [f"constraints-{DATASET}", f"curves-{DATASET}", f"slice-{DATASET}-1", f"slice-{DATASET}-2"]
    assert [name for name in figures(root) if not re.match("cases|differences|distribution|labels", name)] == new
    assert figures(root) == figures(root, "png")
    page, markdown = read(root), (root / "report" / "report.md").read_text(encoding="utf-8")
    for name in new:
        assert f'aria-labelledby="{name}-title" aria-describedby="{name}-text"' in page
        assert f'<figcaption id="{name}-text">' in page
        assert f"](figures/{name}.png)" in markdown
    for anchor in ("cases-as-slices", "training", "constraints", "cost"):
        assert f'<section id="{anchor}">' in page and f'<a href="#{anchor}">' in page
    assert "left out, for" not in page.lower() and "there is no image" not in page
    assert "Trainings: SGD 2, CPR 4." in page and "Trainings: CPR 4." in page
    assert "lowest Dice of all (SGD, 0.790)" in page and "gained most with CPR (+0.080)" in page
    assert "those with a Dice near the mean are shown" in page and "the patient's right on the left" in unescape(page)
    assert not re.findall(r'(?:href|src)="(?!#|data:)', page)


def test_costs(root):
    make_study(root)
    assert compare(root) == 0
    with (root / "report" / "costs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["dataset", "trainer", "run", "fold", "epochs", "seconds_per_epoch", "total_hours"]
    assert [(row["run"], row["fold"]) for row in rows] == [(run, fold) for run in ALL_RUNS for fold in "01"]
    assert {(row["epochs"], row["seconds_per_epoch"]) for row in rows} == {("3", "61.0")}
    assert float(rows[0]["total_hours"]) == pytest.approx((60 + 61 + 62) / 3600)


def test_what_is_missing_is_left_out_and_said(root, monkeypatch):
    make_study(root)
    monkeypatch.delenv("nnUNet_raw")
    model = root / "results" / DATASET
    for path in (model / "nnUNetTrainerSGD__nnUNetPlans__3d_fullres").rglob("training_log*"):
        path.unlink()
    (model / "nnUNetTrainerCPR_seed0__nnUNetPlans__3d_fullres" / "fold_1" / "cpr_trace.csv").unlink()
    assert compare(root) == 0
    page = read(root)
    assert f"Left out, because there is no log: {DATASET}, nnUNetTrainerSGD, fold 0, 1." in page
    assert "Trainings: CPR 4." in page and "Trainings: SGD" not in page
    assert f"Left out, because there is no cpr_trace.csv: {DATASET}, nnUNetTrainerCPR_seed0, fold 1." in page
    assert "Trainings: CPR 3." in page
    assert "filled in gray, because there is no image" in page
    assert len([name for name in figures(root) if name.startswith("slice")]) == 2


def test_copied_validation_results_alone_are_enough(root):
    make_study(root)
    for path in [path for path in (root / "results").rglob("*") if path.is_file()]:
        if path.name not in ("summary.json", "dataset.json"):
            path.unlink()
    assert compare(root) == 0
    assert not [name for name in figures(root) if re.match("slice|curves|constraints", name)]
    assert "2 of 2 pictures left out, for files that cannot be read" in read(root)
    assert '<section id="training">' in read(root)
    assert not (root / "report" / "costs.csv").exists()


def test_an_earlier_reports_figures_are_removed_but_not_the_users_files(root, capsys):
    make_study(root)
    assert compare(root) == 0
    before, folder = set(figures(root)), root / "report"
    annotated = folder / "figures" / f"constraints-{DATASET}.png"
    annotated.write_bytes(annotated.read_bytes() + b"annotated")
    assert compare_folders(root, root / "preprocessed" / DATASET / "gt_segmentations") == 2
    assert f"{annotated} is not as an earlier report wrote it" in capsys.readouterr().err
    annotated = annotated.rename(annotated.with_name("annotated.png"))
    (folder / "figures" / "mine.png").write_bytes(b"mine")
    (folder / "notes.txt").write_text("mine")
    assert compare_folders(root, root / "preprocessed" / DATASET / "gt_segmentations") == 0
    page, left = read(root), set(figures(root))
    assert {f"curves-{DATASET}", f"constraints-{DATASET}", f"slice-{DATASET}-1"} <= before - left
    assert left and all(f'id="{name}-text"' in page for name in left)
    assert set(figures(root, "png")) == left | {"mine", annotated.stem}
    assert (folder / "notes.txt").exists() and not (folder / "costs.csv").exists()
    assert 'id="training"' not in page and 'id="constraints"' not in page
    assert "filled in gray, because there is no image" in page


def test_plain_folders_beside_their_images(root):
    make_study(root)
    labels = root / "raw" / DATASET / "labelsTr"
    (root / "preprocessed" / DATASET / "gt_segmentations").rename(labels)
    assert compare_folders(root, labels) == 0
    assert "Solid lines" in read(root) and "there is no image" not in read(root)


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_plane_images(root, ending):
    make_study(root, ending, shape=SHAPE[1:])
    assert compare(root) == 0
    assert "Plane image. Solid lines" in read(root) and "left out, for files" not in read(root)


def test_regions(root):
    make_study(root, labels={"background": 0, "whole": [1, 2], "core": 2})
    assert compare(root) == 0
    assert "left out, for files" not in read(root)
    svg = (root / "report" / "figures" / f"slice-{DATASET}-1.svg").read_text(encoding="utf-8")
    assert ">whole</text>" in svg and ">core</text>" in svg
