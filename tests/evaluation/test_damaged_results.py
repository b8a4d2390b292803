"""Whatever is damaged of what `nnunet-cpr compare` reads: one line, or a report without it; never a traceback.

INPUTS says how many damaged versions of each file are tried (default: 1, and 25 by the slow test), SEED which.
"""

import hashlib
import json
import shutil

import numpy as np
import pytest
from damaging import Fuzz, contents, inputs, one_line
from evaluation_helpers import noise, write_log, write_segmentation, write_trace, write_training

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation import intervals
from nnunet_cpr.evaluation.figures import drawing as figures
from nnunet_cpr.evaluation.report import write as report
from nnunet_cpr.evaluation.surface.cache import CACHE_FILE

DATASET = "Dataset004_Tiny"
RUNS = ("nnUNetTrainerSGD", "nnUNetTrainerCPR")
CASES = ("a1", "a2")
MODEL = f"results/{DATASET}/nnUNetTrainerCPR__nnUNetPlans__3d_fullres"
FOLD = f"{MODEL}/fold_0"
LOG = "training_log_2026_11_23_13_39_25.txt"
SEGMENTATION = f"{FOLD}/validation/a1.nii.gz"
REFERENCE = f"preprocessed/{DATASET}/gt_segmentations/a1.nii.gz"
DRAWINGS = ("draw_comparison", "draw_slices", "draw_training", "draw_constraints")
OF_TRAININGS = ["request.yaml", f"{FOLD}/validation/summary.json", f"{MODEL}/dataset.json", f"{MODEL}/plans.json",
                f"{FOLD}/{LOG}", f"{FOLD}/debug.json", f"{FOLD}/cpr_trace.csv", SEGMENTATION, REFERENCE,
                f"raw/{DATASET}/imagesTr/a1_0000.nii.gz", "report/manifest.json"]  # fmt: skip
OF_SURFACES = ["surface.yaml", f"{FOLD}/validation/{CACHE_FILE}", f"{FOLD}/validation/summary.json",
               f"{MODEL}/dataset.json", SEGMENTATION, REFERENCE]  # fmt: skip
OF_FOLDERS = ["folders.yaml", "truth/a.nii.gz", "truth/dataset.json", "one/a.nii.gz", "two/b.nii", "two/c.mha"]


def write_world(root):
    """Two trainings with all that they leave, three plain folders, an earlier report, and a request for each."""
    shape = (5, 6, 7)
    labels = {"background": 0, "left": 1, "right": 2, "both": [1, 2], "ignore": 3}
    for number, run in enumerate(RUNS):
        dice = {case: {"1": 0.8 + number / 10, "2": 0.7, "(1, 2)": 0.9 - i / 10} for i, case in enumerate(CASES)}
        fold = write_training(root / "results", run, 0, dice, labels)
        (fold.parent / "plans.json").write_text('{"image_reader_writer": "SimpleITKIO", "dataset_name": "x"}')
        (fold / "debug.json").write_text('{"num_iterations_per_epoch": 250, "fold": 0}')
        write_log(fold, {e: (1 - 0.1 * e, 1.1 - 0.1 * e, [0.1 * e, 0.2 * e], 60 + e) for e in range(3)})
        if "CPR" in run:
            write_trace(fold, {e: {"w": (2.0, 1.9, 1e-4), "v": (1.0, np.inf, 0.0)} for e in range(3)})
        for i, case in enumerate(CASES):
            write_segmentation(fold / "validation" / f"{case}.nii.gz", noise(10 * number + i, 2, shape))
    for i, case in enumerate(CASES):
        write_segmentation(
            root / "preprocessed" / DATASET / "gt_segmentations" / f"{case}.nii.gz", noise(50 + i, 3, shape)
        )
        write_segmentation(root / "raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz", noise(60 + i, 200, shape))
    for number, folder in enumerate(("truth", "one", "two")):
        for i, name in enumerate(("a.nii.gz", "b.nii", "c.mha")):
            write_segmentation(root / folder / name, noise(70 + 10 * number + i, 2, shape))
    (root / "truth" / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    asked = (
        f"output: report\ndatasets: [{DATASET}]\ntrainers:\n  SGD: {RUNS[0]}\n  CPR: [{RUNS[1]}]\nfolds: [0]\nseed: 3\n"
    )
    (root / "request.yaml").write_text(asked)
    (root / "surface.yaml").write_text(asked + "surface: true\ntolerance: 1.5\nprocesses: 1\n")
    folders = "predictions:\n  one: one\n  two: two\n"
    (root / "folders.yaml").write_text(f"output: report\nreference: truth\n{folders}empty: '1'\nprocesses: 1\n")
    write_earlier_report(root / "report")


def write_earlier_report(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.html").write_text("earlier")
    checksum = hashlib.sha256(b"earlier").hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": {"report.html": checksum, "table.tex": "0" * 64}}))
    (folder / "notes.txt").write_text("the user's")


@pytest.fixture
def fuzz(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where the report goes if the request has lost its output
    good = tmp_path / "good"
    write_world(good)
    monkeypatch.setattr(intervals, "BOOTSTRAP_SAMPLES", 20)
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: path.write_bytes(b""))
    drawings = {name: getattr(report, name) for name in DRAWINGS}
    fuzz = Fuzz(good, tmp_path)

    def compare(request, folder, drawn):
        for name, draw in drawings.items():  # takes long
            monkeypatch.setattr(report, name, draw if drawn else lambda results: [])
        for name in ("results", "raw", "preprocessed"):
            monkeypatch.setenv(f"nnUNet_{name}", str(folder / name))
        output = folder / "report"
        before, earlier = contents(folder, output), contents(output)
        refused = one_line(capsys, main(["compare", "--config", str(folder / request)]))
        after = contents(folder, output)
        changed = {name for name, content in before.items() if after.get(name, "lost") != content}
        assert all(name.endswith(CACHE_FILE) for name in changed), f"{sorted(changed)} changed"
        assert (output / "notes.txt").read_text() == "the user's"
        assert not refused or contents(output) == earlier, "the earlier report changed"
        return refused

    fuzz.compare = compare
    return fuzz


def run(fuzz, count, *asked):
    for request, names in asked:
        assert fuzz.compare(request, fuzz.good, drawn=False) is None
        write_earlier_report(fuzz.good / "report")
        for name in names:
            drawn = name.endswith((LOG, "debug.json", "cpr_trace.csv"))
            fuzz.spoil(name, count, lambda folder, args=(request, drawn): fuzz.compare(args[0], folder, args[1]))
    fuzz.end()


def test_a_few_damaged_files(fuzz):
    run(fuzz, inputs(1), ("request.yaml", OF_TRAININGS), ("folders.yaml", OF_FOLDERS))


@pytest.mark.slow
def test_many_damaged_files(fuzz):
    run(fuzz, inputs(8), ("request.yaml", OF_TRAININGS), ("folders.yaml", OF_FOLDERS), ("surface.yaml", OF_SURFACES))
