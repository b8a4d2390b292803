"""What nnU-Net leaves of a prepared dataset, made by hand."""

import json
from pathlib import Path

DATASET = "Dataset004_Tiny"


def prepared_dataset(preprocessed: Path, name: str = DATASET, folds: int = 5) -> Path:
    """What nnU-Net leaves when a dataset is planned, preprocessed and split."""
    folder = preprocessed / name
    data = folder / "nnUNetPlans_3d_fullres"
    data.mkdir(parents=True)
    configurations = {"3d_fullres": {"data_identifier": data.name}, "2d": {"data_identifier": "nnUNetPlans_2d"}}
    (folder / "nnUNetPlans.json").write_text(json.dumps({"dataset_name": name, "configurations": configurations}))
    (folder / "gt_segmentations").mkdir()
    cases = [f"case_{k}" for k in range(2 * folds)]
    for case in cases:
        for ending in (".pkl", ".b2nd", "_seg.b2nd"):
            (data / f"{case}{ending}").touch()
        (folder / "gt_segmentations" / f"{case}.nii.gz").touch()
    splits = [{"train": cases, "val": cases[fold::folds]} for fold in range(folds)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder
