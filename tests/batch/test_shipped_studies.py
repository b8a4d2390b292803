"""The studies in configs/segmentation against the paper's Table J.1 and J.2, written down once more by hand."""

import gzip
import json
from pathlib import Path

import pytest

from nnunet_cpr.batch.study import read_study
from nnunet_cpr.training.settings import family_of, parse

STUDIES = sorted((Path(__file__).parents[2] / "configs" / "segmentation").glob("*.yaml"))
DATASETS = ["Dataset002_Heart", "Dataset004_Hippocampus", "Dataset017_BTCV", "Dataset082_BraTS2020", "Dataset218_AMOS",
            "Dataset408_Hippocampus8cases", "Dataset424_Hippocampus24cases"]  # fmt: skip
TABLE_J1 = {"btcv": (125_000, 3), "heart": (25_000, 5), "brats2020": (25_000, 5)}
"""Optimizer steps and folds."""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    for dataset in DATASETS:
        (tmp_path / "raw" / dataset).mkdir(parents=True)
        description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
        (tmp_path / "raw" / dataset / "dataset.json").write_text(json.dumps(description))
        for part, file in (("imagesTs", "case_0000.nii.gz"), ("labelsTs", "case.nii.gz")):
            (tmp_path / "raw" / dataset / part).mkdir()
            (tmp_path / "raw" / dataset / part / file).write_bytes(gzip.compress(part.encode()))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_it_can_be_run(path):
    study = read_study(path)
    assert len(study.trainers) >= 2 and study.datasets[0] in DATASETS
    # What is compared takes equally many steps, else the comparison would be of lengths.
    lengths = {parse(run).total_steps for runs in study.trainers.values() for run in runs if family_of(run)}
    assert len(lengths) == 1


@pytest.mark.parametrize("optimizer", ["", "_adam"])
@pytest.mark.parametrize("name", TABLE_J1)
def test_table_j1(name, optimizer):
    study = read_study(next(path for path in STUDIES if path.stem == name + optimizer))
    steps, folds = TABLE_J1[name]
    settings = [parse(run) for runs in study.trainers.values() for run in runs]
    decays = [s.weight_decay for s in settings if not s.cpr]
    warm_starts = [s.cpr.kappa_init_param for s in settings if s.cpr]
    assert decays == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1] and warm_starts == [1000, 2000, 3000, 4000]
    assert all(s.total_steps == steps and s.warmup_steps == 2000 and s.lr == 0.01 for s in settings)
    assert all(s.cpr.kappa_update == 1 and s.cpr.kappa_init_method == "warm_start" for s in settings if s.cpr)
    assert {s.optimizer for s in settings} == ({"AdamW", "Adam"} if optimizer else {"SGD"})
    assert len(study.folds) == folds and study.configurations == ["3d_fullres"]
