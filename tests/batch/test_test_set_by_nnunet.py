"""From raw data to the Dice of a test set in one command, with real nnU-Net on real MR images."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_cpr.datasets.small_plans import add_small_configuration

pytestmark = pytest.mark.slow  # nnU-Net trains and predicts for real
pytest.importorskip("snakemake", reason="needs nnunet-cpr[batch], which needs Python 3.11")
NAME = "Dataset004_Hippocampus"
TRAIN, TEST = 5, 3
SETTINGS = "1epochs_2iters_seed0"
STUDY = f"""
datasets: [4]
configuration: 3d_small
trainers: {{weight decay: nnUNetTrainerSGD_{SETTINGS}, CPR: nnUNetTrainerCPR_ws1_{SETTINGS}}}
folds: [0, 1]
test_set: true
surface: true
device: cpu
"""


@pytest.fixture
def folders(hippocampus, tmp_path, monkeypatch):
    """nnU-Net's raw data: 5 cases to train with and 3 to test with."""
    raw = tmp_path / "raw" / NAME
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (hippocampus / "labelsTr").glob("hippocampus_*"))
    for k, case in enumerate(cases[: TRAIN + TEST]):
        part = "Tr" if k < TRAIN else "Ts"
        for kind, name in (("images", f"{case}_0000"), ("labels", case)):
            (raw / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            shutil.copy(hippocampus / f"{kind}Tr" / f"{case}.nii.gz", raw / f"{kind}{part}" / f"{name}.nii.gz")
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": TRAIN, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    for name, value in {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_from_raw_data_to_the_test_sets_dice(folders):
    study = folders / "study.yaml"
    study.write_text(STUDY)
    printed = run(sys.executable, "-m", "nnunet_cpr.cli", "batch", study)
    assert "Test set (fold ensembles)" in printed

    raw = folders / "raw" / NAME
    with (folders / "results" / "studies" / "study" / "report" / "test_set_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = {(row["run"], row["case"], row["label"]): float(row["value"]) for row in rows if row["metric"] == "Dice"}
    assert {row["metric"] for row in rows} == {"Dice", "NSD", "HD95", "MASD"}
    models = sorted((folders / "results" / NAME).iterdir())
    for model in models:
        for label in sorted((raw / "labelsTs").iterdir()):
            truth = np.asarray(nib.load(label).dataobj)
            predicted = np.asarray(nib.load(model / "test_set_folds_0_1" / label.name).dataobj)
            for value, name in ((1, "Anterior"), (2, "Posterior")):
                one, other = truth == value, predicted == value
                dice = 2 * (one & other).sum() / (one.sum() + other.sum())
                found = values.pop((model.name.split("__")[0], label.name.removesuffix(".nii.gz"), name))
                assert found == pytest.approx(dice, rel=1e-9)
    assert {label for _, _, label in values} == {"foreground mean"}  # nothing else is in the table

    by_hand = folders / "by_hand"
    predict = Path(sys.executable).with_name("nnUNetv2_predict")
    trainer, plans, configuration = models[0].name.split("__")
    run(predict, "-i", raw / "imagesTs", "-o", by_hand, "-d", 4, "-tr", trainer, "-p", plans, "-c", configuration,
        "-f", 0, 1, "-device", "cpu", "-npp", 1, "-nps", 1)  # fmt: skip
    for path in sorted(by_hand.glob("*.nii.gz")):
        ours = np.asarray(nib.load(models[0] / "test_set_folds_0_1" / path.name).dataobj)
        assert np.array_equal(ours, np.asarray(nib.load(path).dataobj))


def test_the_cascade(folders):
    """All folds of its first stage, then the cascade; both predict the test set, as by hand."""
    run(Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess"), "-d", 4, "-c", "3d_fullres", "-np", 1)
    plans_file = folders / "preprocessed" / NAME / "nnUNetPlans.json"
    add_small_configuration(plans_file, json.loads(plans_file.read_text()))
    plans = json.loads(plans_file.read_text())  # for images so small nnU-Net plans no cascade itself
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_small", "data_identifier": "nnUNetPlans_3d_lowres", "spacing": [2.0, 2.0, 2.0],
        "next_stage": "3d_cascade_fullres",
    }  # fmt: skip
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_small", "previous_stage": "3d_lowres"}
    plans_file.write_text(json.dumps(plans))
    cases = sorted(path.stem for path in plans_file.with_name("nnUNetPlans_3d_fullres").glob("*.pkl"))
    folds = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:2], "val": cases[2:]}]
    plans_file.with_name("splits_final.json").write_text(json.dumps(folds))
    study = folders / "cascade.yaml"
    trainer = f"nnUNetTrainerCPR_ws1_{SETTINGS}"
    study.write_text(f"datasets: [4]\nconfiguration: 3d_cascade_fullres\ntrainers: [{trainer}]\nfolds: [0]\n"
                     "test_set: true\ndevice: cpu\n")  # fmt: skip
    run(sys.executable, "-m", "nnunet_cpr.cli", "batch", study)
    results = folders / "results" / NAME
    lowres, cascade = (results / f"{trainer}__nnUNetPlans__{name}" for name in ("3d_lowres", "3d_cascade_fullres"))
    assert len(list((lowres / "predicted_next_stage" / "3d_cascade_fullres").iterdir())) == TRAIN
    assert len(list((cascade / "fold_0" / "validation").glob("*.nii.gz"))) == 2
    first, by_hand, images = (
        lowres / "test_set_folds_0_1",
        folders / "by_hand",
        folders / "raw" / NAME / "imagesTs",
    )
    run(Path(sys.executable).with_name("nnUNetv2_predict"), "-i", images,
        "-o", by_hand, "-d", 4, "-tr", trainer, "-c", "3d_cascade_fullres", "-f", 0, "-device", "cpu", "-npp", 1,
        "-nps", 1, "-prev_stage_predictions", first)  # fmt: skip
    found = sorted(by_hand.glob("*.nii.gz"))
    assert len(found) == TEST
    for path in found:
        ours = np.asarray(nib.load(cascade / "test_set_folds_0" / path.name).dataobj)
        assert np.array_equal(ours, np.asarray(nib.load(path).dataobj))
