"""What nnU-Net leaves of a prepared dataset, made by hand."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

DATASET = "Dataset004_Tiny"


def prepared_dataset(preprocessed: Path, name: str = DATASET, folds: int = 5) -> Path:
    """What nnU-Net leaves when a dataset is planned, preprocessed and split."""
    folder = preprocessed / name
    configurations = {name: {"data_identifier": f"nnUNetPlans_{name}"} for name in ("3d_fullres", "2d")}
    for configuration in configurations.values():
        (folder / configuration["data_identifier"]).mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps({"dataset_name": name, "configurations": configurations}))
    (folder / "gt_segmentations").mkdir()
    cases = [f"case_{k}" for k in range(2 * folds)]
    for case in cases:
        for configuration in configurations.values():
            for ending in (".pkl", ".b2nd", "_seg.b2nd"):
                (folder / configuration["data_identifier"] / f"{case}{ending}").touch()
        (folder / "gt_segmentations" / f"{case}.nii.gz").touch()
    splits = [{"train": cases, "val": cases[fold::folds]} for fold in range(folds)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def plan_cascade(preprocessed: Path, name: str = DATASET) -> None:
    """Add the cascade to the plans, as nnU-Net does for large images."""
    path = preprocessed / name / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_lowres"] = {"data_identifier": "nnUNetPlans_2d", "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    path.write_text(json.dumps(plans))


def raw_with_test_set(raw: Path, name: str = DATASET, train: int = 4, test: int = 3) -> Path:
    """nnU-Net's raw dataset with one channel and a labeled test set; every file has a content of its own."""
    folder, generator = raw / name, np.random.default_rng(0)
    for part, case, number in (("Tr", "case", train), ("Ts", "test", test)):
        for k in range(number):
            write_nifti(folder / f"images{part}" / f"{case}_{k}_0000.nii.gz", generator.integers(0, 200, (4, 5, 6)))
            write_nifti(folder / f"labels{part}" / f"{case}_{k}.nii.gz", generator.integers(0, 2, (4, 5, 6)))
    labels = {"background": 0, "organ": 1}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": train, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_nifti(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), path)
    return path
