"""Whatever is damaged in a download: `nnunet-cpr convert` says so in one line and writes nothing, or converts it all.

INPUTS says how many damaged versions of each file are tried (default: 4, and 100 by the slow test), SEED which.
"""

import json
import shutil

import pytest
from conversion_helpers import amos, brats, btcv, image, label, write
from damaging import Fuzz, contents, inputs, one_line

from nnunet_cpr.cli import main
from nnunet_cpr.demo import subprocesses

BRATS = "brats2020/MICCAI_BraTS2020_TrainingData/BraTS20_Training_002/BraTS20_Training_002"
FILES = {
    "btcv": ["btcv/RawData/Training/img/img0002.nii.gz", "btcv/RawData/Training/label/label0002.nii.gz"],
    "brats2020": [f"{BRATS}_t1ce.nii", f"{BRATS}_seg.nii"],
    "amos22": [
        "amos22/imagesTr/amos_0004.nii.gz",
        "amos22/labelsTr/amos_0004.nii.gz",
        "amos22/imagesTs/amos_0002.nii.gz",
    ],
    "heart": [
        "heart/dataset.json",
        "heart/imagesTr/la_2.nii.gz",
        "heart/labelsTr/la_2.nii.gz",
        "heart/imagesTs/la_9.nii.gz",
    ],
}


def heart(folder):
    for number in range(5):
        write(folder / "imagesTr" / f"la_{number}.nii.gz", image((9, 8, 7), number))
        write(folder / "labelsTr" / f"la_{number}.nii.gz", label((9, 8, 7), (1,)))
    write(folder / "imagesTs" / "la_9.nii.gz", image((9, 8, 7), 9))
    pairs = [{"image": f"./imagesTr/la_{n}.nii.gz", "label": f"./labelsTr/la_{n}.nii.gz"} for n in range(5)]
    description = {"name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}}
    (folder / "dataset.json").write_text(json.dumps(description | {"training": pairs, "test": [], "numTraining": 5}))


@pytest.fixture
def fuzz(tmp_path, raw, monkeypatch, capsys, caplog):
    good = tmp_path / "good"
    btcv(good / "btcv", numbers=(1, 2), shape=(15, 9, 6))
    brats(good / "brats2020", numbers=(2,), shape=(15, 9, 6))
    amos(good / "amos22")
    heart(good / "heart")
    monkeypatch.setattr(subprocesses, "run_command", lambda *_: None)  # nnU-Net's converter gets what passed the checks
    fuzz = Fuzz(good, tmp_path)

    def convert(*arguments):
        def check(folder):
            shutil.rmtree(raw, ignore_errors=True)
            before = contents(folder)
            refused = one_line(capsys, main(["convert", *(str(a).format(folder) for a in arguments), "-np", "1"]))
            assert contents(folder) == before, "the download changed"
            assert not caplog.records, "nibabel's own messages on the terminal"
            assert not refused or not raw.exists() or not any(raw.iterdir()), "something was written"
            return refused

        return check

    fuzz.convert = convert
    return fuzz


def run(fuzz, count):
    for dataset, names in FILES.items():
        # heart's own part ends with the checks; the others write, too
        arguments = [dataset, f"{{0}}/{dataset}", *(["--dry-run"] if dataset == "heart" else [])]
        check = fuzz.convert(*arguments)
        assert check(fuzz.good) is None
        for name in names:
            fuzz.spoil(name, count, check)
    fuzz.end()


def test_a_few_damaged_files(fuzz):
    run(fuzz, inputs(4))


@pytest.mark.slow
def test_many_damaged_files(fuzz):
    run(fuzz, inputs(40))


def test_damaged_predictions(tmp_path, capsys):
    """Turned back into the challenge's values."""
    write(tmp_path / "good" / "predictions" / "a.nii.gz", label((9, 8, 7), (1, 2, 3)))
    write(tmp_path / "good" / "predictions" / "b.nii.gz", label((9, 8, 7), (1, 2)))
    fuzz = Fuzz(tmp_path / "good", tmp_path)

    def restore(folder):
        before = contents(folder / "predictions")
        code = main(["convert", "brats2020", "--inverse", str(folder / "predictions"), str(folder / "out"), "-np", "1"])
        refused = one_line(capsys, code)
        assert contents(folder / "predictions") == before
        assert (folder / "out").exists() == (not refused)
        return refused

    fuzz.spoil("predictions/b.nii.gz", inputs(10), restore)
    fuzz.end()
