"""Predictions with nnU-Net's label values, turned back into those of the challenge."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_cpr.datasets.case_files import write_labels
from nnunet_cpr.datasets.conversion import complete_folder
from nnunet_cpr.datasets.msd import list_values, open_nifti
from nnunet_cpr.parallel import in_parallel


def restore_labels(predictions: Path, output: Path, values: dict[int, int], processes: int) -> int:
    """Write every segmentation of `predictions` to the new folder `output`; return their number.

    `values` maps the challenge's label values to nnU-Net's. Raises ValueError naming the file with another value.
    """
    if os.path.lexists(output):
        raise ValueError(f"{output} exists; delete it or choose another folder")
    files = sorted(path for path in predictions.glob("*") if path.name.endswith((".nii", ".nii.gz")))
    files = [path for path in files if not path.name.startswith("._")]  # as macOS leaves them beside others
    if not files:
        raise ValueError(f"{predictions}: no .nii.gz or .nii files; give nnU-Net's folder of predictions")
    if odd := [path for path in files if not path.is_file()]:
        raise ValueError(f"{odd[0]} is not a file, or a link to none")
    back = {new: value for value, new in values.items()}
    with complete_folder(output.absolute()) as folder:
        folder.mkdir()
        for _ in in_parallel(partial(_restore, values=back, folder=folder), files, processes, "write"):
            pass
    return len(files)


def _restore(path: Path, values: dict[int, int], folder: Path) -> None:
    image, array = open_nifti(path)
    if unknown := sorted(set(np.unique(array).tolist()) - set(values)):
        raise ValueError(
            f"{path}: label value {list_values(unknown)} is not nnU-Net's, which are "
            f"{', '.join(map(str, sorted(values)))}; give predictions of a network trained on the converted dataset"
        )
    write_labels(array, values, image, folder / path.name)
