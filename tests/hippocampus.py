"""Small real MR images with two labels, in the Decathlon's layout."""

import json
import os
from pathlib import Path

from nnunet_cpr.datasets import mni152

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "Task04_Hippocampus"
"""The Decathlon's Task04, which is not part of this repository; it may lie beside the checkout."""
CASES = 8


def stand_in(parent: Path) -> Path:
    """Make eight blocks of nilearn's template that look like Task04_Hippocampus, and return their folder.

    So tests of trainings and conversions run in any checkout, not only beside the real images.
    """
    raw, folder = parent / "blocks", parent / HIPPOCAMPUS.name
    mni152.write_dataset(raw)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    cases = []
    for number, label in enumerate(sorted((raw / "labelsTr").iterdir())[:CASES], start=1):
        image = raw / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
        case = {"image": image, "label": label}
        for kind, file in case.items():
            os.link(file, folder / f"{kind}sTr" / f"hippocampus_{number:03d}.nii.gz")
        cases.append({kind: f"./{kind}sTr/hippocampus_{number:03d}.nii.gz" for kind in case})
    description = {
        "name": "Hippocampus", "tensorImageSize": "3D", "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": len(cases), "numTest": 0, "training": cases, "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
