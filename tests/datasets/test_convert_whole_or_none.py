"""What `nnunet-cpr convert` leaves on disk: a complete dataset or none."""

import os
import signal
import subprocess
import sys

import pytest
from conversion_helpers import btcv, fails, tree

from nnunet_cpr import parallel
from nnunet_cpr.cli import main
from nnunet_cpr.datasets import challenge

NAME = "Dataset017_BTCV"


@pytest.fixture
def source(tmp_path):
    return btcv(tmp_path / "Abdomen")


def test_dry_run_writes_nothing_but_checks(source, raw, capsys):
    assert main(["convert", "btcv", str(source), "--dry-run"]) == 0
    assert f"5 training cases passed the checks; they would be written to {raw / NAME}" in capsys.readouterr().out
    assert not raw.exists()
    (source / "RawData" / "Training" / "label" / "label0001.nii.gz").write_text("no image")
    assert "label0001.nii.gz: cannot be read" in fails(capsys, "btcv", source, "--dry-run")


def test_links(source, raw, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert main(["convert", "btcv", "Abdomen", "--link"]) == 0
    link = raw / NAME / "imagesTr" / "img0001_0000.nii.gz"
    assert os.readlink(link) == str(source / "RawData" / "Training" / "img" / "img0001.nii.gz")
    assert (raw / NAME / "labelsTr" / "img0001.nii.gz").is_symlink()
    assert (raw / NAME / "imagesTs" / "img0061_0000.nii.gz").is_symlink()


def test_copies_of_a_read_only_source_can_be_changed(source, raw):
    for path in source.rglob("*.nii.gz"):
        path.chmod(0o444)
    assert main(["convert", "btcv", str(source)]) == 0
    assert (raw / NAME / "labelsTr" / "img0001.nii.gz").stat().st_mode & 0o200
    assert (raw / NAME).stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_existing_target_is_left_alone(source, raw, capsys):
    (raw / NAME).mkdir(parents=True)
    (raw / NAME / "mine").write_text("keep")
    assert f"{raw / NAME} exists; delete it to convert again" in fails(capsys, "btcv", source)
    assert tree(raw) == [NAME, f"{NAME}/mine"]
    assert main(["convert", "btcv", str(source), "-d", "18"]) == 0


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_number_that_another_dataset_has(source, raw, tmp_path, monkeypatch, capsys, variable):
    folder = raw if variable == "nnUNet_raw" else tmp_path / variable
    monkeypatch.setenv(variable, str(folder))
    (folder / "Dataset017_Other").mkdir(parents=True)
    assert "number 17 is taken by Dataset017_Other" in fails(capsys, "btcv", source)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError("disk full"), 2)])
def test_interrupted_half_way(source, raw, monkeypatch, capsys, error, code):
    written = []

    def write_case(checked, **settings):
        if len(written) == 3:
            assert len(list(raw.glob(f".{NAME}-*/{NAME}/imagesTr/*"))) == 3  # so it really is half-way
            raise error
        original(checked, **settings)
        written.append(checked)

    original = challenge.write_case
    monkeypatch.setattr(challenge, "write_case", write_case)
    assert main(["convert", "btcv", str(source)]) == code
    assert tree(raw) == []
    monkeypatch.setattr(challenge, "write_case", original)
    assert main(["convert", "btcv", str(source)]) == 0
    assert len(list((raw / NAME / "imagesTr").iterdir())) == 5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (NAME, f"{NAME} exists; delete it to convert again"),
        ("Dataset017_Other", "number 17 is taken by Dataset017_Other"),
    ],
)
def test_another_conversion_that_was_faster(source, raw, monkeypatch, capsys, other, message):
    """It begins and ends while this one writes: one dataset is there, whole, and one line says why not the other."""

    def write(self, *arguments):
        original(self, *arguments)
        (raw / other).mkdir()

    original = challenge.ChallengeDataset.write
    monkeypatch.setattr(challenge.ChallengeDataset, "write", write)
    assert message in fails(capsys, "btcv", source)
    assert tree(raw) == [other]


KILLED = """
import os, signal, sys
from nnunet_cpr.cli import main
from nnunet_cpr.datasets import case_files, challenge

def write_case(checked, **settings):
    if checked.case.name == "img0003":
        os.kill(os.getpid(), signal.SIGKILL)
    case_files.write_case(checked, **settings)

challenge.write_case = write_case
main(["convert", "btcv", sys.argv[1]])
"""


def test_killed_half_way(source, raw, capsys):
    process = subprocess.run([sys.executable, "-c", KILLED, str(source)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (raw / NAME).exists()
    [left] = raw.iterdir()
    assert main(["convert", "btcv", str(source)]) == 0
    assert f"! {left} is left from a conversion that was killed" in capsys.readouterr().out
    assert len(list((raw / NAME / "imagesTr").iterdir())) == 5


def test_several_processes(source, raw, monkeypatch):
    started = []

    class Executor(parallel.ProcessPoolExecutor):
        def __init__(self, workers: int, **settings) -> None:
            started.append(workers)
            super().__init__(workers, **settings)

    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)  # little work does not start any
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Executor)
    assert main(["convert", "btcv", str(source), "-np", "2"]) == 0
    assert started == [2, 2]  # to check and to write
    assert len(list((raw / NAME / "labelsTr").iterdir())) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["btcv"], "give SOURCE"),
        (["btcv", "nowhere"], "nowhere is not a folder"),
        (["btcv", ".", "-d", "1000"], "nnU-Net's numbers are 1 to 999"),
        (["btcv", ".", "-np", "0"], "at least one process"),
        (["heart", ".", "--mr"], "--mr is for amos22"),
    ],
)
def test_mistakes_of_the_user(raw, capsys, arguments, message):
    assert message in fails(capsys, *arguments)


def test_without_nnunets_folder(source, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert "nnUNet_raw is not set: export nnUNet_raw=FOLDER" in fails(capsys, "btcv", source)


@pytest.mark.parametrize("part", ["img", "label"])
def test_a_pipe_is_named_instead_of_waited_for(source, raw, capsys, part):
    path = sorted((source / "RawData" / "Training" / part).glob("*.nii.gz"))[1]
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is a pipe, not a file" in fails(capsys, "btcv", source)
    assert not raw.exists()


def test_a_folder_that_nnunet_could_not_read(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "b\udcffd"))
    assert "nnU-Net takes only paths in UTF-8" in fails(capsys, "btcv", source)
    assert not (tmp_path / "b\udcffd").exists()
