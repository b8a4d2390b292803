import json

import numpy as np
import pytest
from conversion_helpers import AFFINE, amos, fails, read, write

from nnunet_cpr.cli import main

CT = ["amos_0001", "amos_0004", "amos_0008", "amos_0409", "amos_0410"]
MR = ["amos_0507", "amos_0600"]


@pytest.fixture
def source(tmp_path):
    return amos(tmp_path / "amos22")


@pytest.mark.parametrize(
    ("flags", "name", "cases", "tests", "channel", "published"),
    [
        ([], "Dataset218_AMOS2022_postChallenge_task1", CT, ["amos_0002", "amos_0500"], "CT", 300),
        (
            ["--mr"], "Dataset219_AMOS2022_postChallenge_task2", CT + MR,
            ["amos_0002", "amos_0500", "amos_0596"], "either_CT_or_MR", 360,
        ),
    ],
    ids=["CT", "CT and MR"],
)  # fmt: skip
def test_the_whole_dataset(source, raw, capsys, flags, name, cases, tests, channel, published):
    assert main(["convert", "amos22", str(source.parent), *flags]) == 0
    dataset = raw / name
    assert [path.name for path in sorted((dataset / "labelsTr").iterdir())] == [f"{case}.nii.gz" for case in cases]
    images = [path.name for path in sorted((dataset / "imagesTr").iterdir())]
    assert images == [f"{case}_0000.nii.gz" for case in cases]
    assert [path.name for path in sorted((dataset / "imagesTs").iterdir())] == [f"{x}_0000.nii.gz" for x in tests]
    validation = source / "labelsVa" / "amos_0008.nii.gz"
    assert (dataset / "labelsTr" / "amos_0008.nii.gz").read_bytes() == validation.read_bytes()
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["channel_names"] == {"0": channel}
    assert content["numTraining"] == len(cases)
    assert content["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert (content["labels"]["aorta"], content["labels"]["prostate/uterus"]) == (8, 15)
    assert f"{published} were published" in capsys.readouterr().out


def test_missing_validation_label(source, raw, capsys):
    (source / "labelsVa" / "amos_0409.nii.gz").unlink()
    assert "no label for image amos_0409.nii.gz" in fails(capsys, "amos22", source)


def test_another_header_is_an_error(source, raw, capsys):
    path = source / "labelsTr" / "amos_0004.nii.gz"
    write(path, read(path), AFFINE @ np.diag([-1, 1, 1, 1]))
    assert "amos_0004: the label amos_0004.nii.gz has the direction" in fails(capsys, "amos22", source)


def test_only_mr(source, raw, capsys):
    for path in [*source.glob("*Tr/*"), *source.glob("*Va/*")]:
        if int(path.name[5:9]) <= 500:
            path.unlink()
    assert "add --mr to take MR, too" in fails(capsys, "amos22", source)
