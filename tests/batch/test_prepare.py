"""Preparation of a dataset by nnU-Net's real commands, on six tiny cases."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_cpr.batch import prepare as preparation
from nnunet_cpr.batch.locks import is_locked
from nnunet_cpr.batch.prepare import is_prepared, prepare
from nnunet_cpr.batch.study import read_study

pytestmark = pytest.mark.slow  # nnU-Net plans and preprocesses for real
NAME = "Dataset004_Tiny"


def raw_dataset(raw: Path, name: str = NAME) -> Path:
    folder = raw / name
    generator = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(6):
        label = np.zeros((20, 24, 16), np.uint8)
        label[5:12, 6:15, 4:10] = 1
        image = label * 100 + generator.normal(0, 10, label.shape)
        for part, array in ((f"imagesTr/case_{case}_0000", image.astype(np.float32)), (f"labelsTr/case_{case}", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{part}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Everything prepared from nothing, once for all tests: the folder with raw, preprocessed and results."""
    folder = tmp_path_factory.mktemp("prepared")
    raw_dataset(folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        study = use(folder, patch)
        assert not is_prepared(study, NAME)
        prepare(study, NAME)
    return folder


def use(folder: Path, patch: pytest.MonkeyPatch):
    for name in ("raw", "preprocessed", "results"):
        patch.setenv(f"nnUNet_{name}", str(folder / name))
    path = folder / "study.yaml"
    path.write_text("datasets: 4\nconfiguration: 3d_small\ntrainers: [nnUNetTrainerCPR]\ndevice: cpu\n")
    return read_study(path)


@pytest.fixture
def copy(prepared, tmp_path, monkeypatch):
    """A copy to change: the study and the folder of the preprocessed dataset."""
    shutil.copytree(prepared, tmp_path / "copy")
    return use(tmp_path / "copy", monkeypatch), tmp_path / "copy" / "preprocessed" / NAME


@pytest.fixture
def commands(monkeypatch):
    """The commands of nnU-Net that ran."""
    ran = []
    run = preparation._run
    monkeypatch.setattr(preparation, "_run", lambda command, *rest: (ran.append(command[0]), run(command, *rest)))
    return ran


def test_all_that_folds_would_race_on_is_there(copy):
    study, folder = copy
    assert is_prepared(study, NAME)
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["3d_small"]["inherits_from"] == "3d_fullres"
    for ending in (".pkl", ".b2nd", "_seg.b2nd"):
        assert len(list((folder / "nnUNetPlans_3d_fullres").glob(f"case_?{ending}"))) == 6
    assert len(list((folder / "gt_segmentations").iterdir())) == 6
    log = study.output / "logs" / NAME / "prepare.log"
    assert [line.split()[1] for line in log.read_text().splitlines() if line.startswith("$ ")] == [
        "nnUNetv2_extract_fingerprint", "nnUNetv2_plan_experiment", "nnUNetv2_preprocess",
    ]  # fmt: skip


def test_the_split_is_nnunets_own(copy):
    torch = pytest.importorskip("torch")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    _, folder = copy
    ours = json.loads((folder / "splits_final.json").read_text())
    (folder / "splits_final.json").unlink()
    plans, description = (json.loads((folder / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    plans["continue_training"] = False  # as run_training adds it
    nnUNetTrainer(plans, "3d_small", 0, description, torch.device("cpu")).do_split()
    assert ours == json.loads((folder / "splits_final.json").read_text())
    assert sorted(case for split in ours for case in split["val"]) == [f"case_{k}" for k in range(6)]


def test_a_second_call_does_nothing(copy, commands):
    study, folder = copy
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(study, NAME)
    assert not commands
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_interrupted_preprocessing_is_done_again(copy, commands):
    study, folder = copy
    data = folder / "nnUNetPlans_3d_fullres"
    for case in (2, 5):
        (data / f"case_{case}.pkl").unlink()
    assert not is_prepared(study, NAME)
    prepare(study, NAME)
    assert commands == ["nnUNetv2_preprocess"]
    assert is_prepared(study, NAME)


def test_every_configuration_is_prepared(copy, commands):
    study, folder = copy
    study.path.write_text(study.path.read_text().replace("3d_small", "[3d_small, 2d]"))
    study = read_study(study.path)
    assert not is_prepared(study, NAME)
    prepare(study, NAME)
    assert commands == ["nnUNetv2_preprocess"] and is_prepared(study, NAME)
    assert len(list((folder / "nnUNetPlans_2d").glob("case_?.pkl"))) == 6


def test_labels_that_were_not_all_copied_are_missed(copy):
    study, folder = copy
    (folder / "gt_segmentations" / "case_5.nii.gz").unlink()
    assert not is_prepared(study, NAME)


def test_own_splits_are_kept(copy, commands):
    study, folder = copy
    own = '[{"train": ["case_0"], "val": ["case_1"]}]'
    (folder / "splits_final.json").write_text(own)
    prepare(study, NAME)
    assert (folder / "splits_final.json").read_text() == own
    assert not commands


def test_preprocessed_data_without_raw_data(copy, commands):
    """As on a cluster to which only these were brought."""
    study, folder = copy
    shutil.rmtree(folder.parents[1] / "raw" / NAME)
    assert is_prepared(study, NAME)
    prepare(study, NAME)
    assert not commands


def test_a_configuration_that_nnunet_does_not_plan_here(copy, monkeypatch):
    study, folder = copy
    text = study.path.read_text().replace("3d_small", "3d_lowres")
    study.path.write_text(text)
    plans = (folder / "nnUNetPlans.json").read_text()
    (folder / "nnUNetPlans.json").unlink()
    study = read_study(study.path)  # whether there is a 3d_lowres shows only when it is planned
    assert not is_prepared(study, NAME)
    monkeypatch.setattr(preparation, "_run", lambda *_: (folder / "nnUNetPlans.json").write_text(plans))
    with pytest.raises(
        ValueError,
        match=r"^nnU-Net planned no configuration 3d_lowres for Dataset004_Tiny \(it does so only for large images\)$",
    ):
        prepare(study, NAME)


def test_a_failing_command_is_named_with_its_log(tmp_path, monkeypatch):
    (raw_dataset(tmp_path / "raw") / "imagesTr" / "case_3_0000.nii.gz").unlink()
    study = use(tmp_path, monkeypatch)
    log = study.output / "logs" / NAME / "prepare.log"
    with pytest.raises(ValueError, match=r"^nnUNetv2_extract_fingerprint failed with exit code 1: .*; see ") as error:
        prepare(study, NAME)
    assert str(error.value).endswith(str(log))
    assert "Did not find the expected number of training cases" in log.read_text()
    assert "Did not find the expected number of training cases" in str(error.value)  # the reason, not only where it is
    assert not is_locked(tmp_path / "preprocessed" / f".{NAME}.lock")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command does not learn that its parent was killed")
def test_a_killed_preparation_stops_its_command_before_the_lock_falls(tmp_path):
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ntrap 'sleep 1; touch {tmp_path}/stopped; exit' TERM\ntouch {tmp_path}/begun\n"
                       "for i in $(seq 1000); do sleep 0.1; done\n")  # fmt: skip
    command.chmod(0o755)
    lock = tmp_path / "lock"
    code = (
        "from pathlib import Path; from nnunet_cpr.batch import locks, prepare; prepare.executable = str; "
        f"prepare._run([{str(command)!r}], Path({str(tmp_path / 'log')!r}), locks.take(Path({str(lock)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (tmp_path / "begun").is_file())
    process.kill()
    process.wait()
    wait_for(lambda: not is_locked(lock))
    assert (tmp_path / "stopped").is_file()


def wait_for(what) -> None:
    until = time.monotonic() + 300
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
