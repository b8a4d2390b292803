"""Converted datasets go through nnU-Net's own checks, planning and preprocessing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conversion_helpers import brats, btcv, read, swapped, write

from nnunet_cpr.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["btcv", "brats2020"])
def test_plan_and_preprocess(tmp_path, raw, dataset):
    shape = (30, 26, 19)
    if dataset == "btcv":
        source, number, name = btcv(tmp_path / "source", shape=shape), 17, "Dataset017_BTCV"
        path = source / "RawData" / "Training" / "label" / "label0002.nii.gz"
        write(path, read(path), swapped("spacing"))  # nnU-Net would refuse it
    else:
        source, number, name = brats(tmp_path / "source", shape=shape), 82, "Dataset082_BraTS2020"
    assert main(["convert", dataset, str(source), "--link"]) == 0
    folders = {"nnUNet_preprocessed": str(tmp_path / "preprocessed"), "nnUNet_results": str(tmp_path / "results")}
    command = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
    process = subprocess.run(
        [command, "-d", str(number), "--verify_dataset_integrity", "-c", "3d_fullres", "-np", "1", "-npfp", "1"],
        env=os.environ | folders,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "If you didn't see any error messages then your dataset is most likely OK!" in process.stdout
    assert "WARNING" not in process.stdout.upper().replace("USERWARNING", "")
    preprocessed = tmp_path / "preprocessed" / name / "nnUNetPlans_3d_fullres"
    assert len(list(preprocessed.glob("*.pkl"))) == 5
    plans = (preprocessed.parent / "nnUNetPlans.json").read_text()
    assert ("CTNormalization" in plans) == (dataset == "btcv")
