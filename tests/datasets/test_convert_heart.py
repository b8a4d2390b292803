import json
import os
import shutil

import pytest
from conversion_helpers import fails, image, label, tree, truncate, write
from hippocampus import HIPPOCAMPUS

from nnunet_cpr.cli import main

CASES = [f"la_{number:03d}" for number in range(20)]
DESCRIPTION = {
    "name": "LeftAtrium",
    "reference": "King's College London",
    "licence": "CC-BY-SA 4.0",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "left atrium"},
    "numTraining": 20,
    "numTest": 1,
    "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES],
    "test": ["./imagesTs/la_030.nii.gz"],
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "Task02_Heart"
    for number, case in enumerate(CASES):
        write(folder / "imagesTr" / f"{case}.nii.gz", abs(image((13, 11, 7), number)))
        write(folder / "labelsTr" / f"{case}.nii.gz", label((13, 11, 7), (1,)))
    (folder / "imagesTr" / "._la_003.nii.gz").write_bytes(b"as macOS leaves them")
    write(folder / "imagesTs" / "la_030.nii.gz", abs(image((13, 11, 7), 30)))
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return folder


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
def test_the_whole_dataset(source, raw, capsys, link):
    assert main(["convert", "heart", str(source), *(["--link"] if link else [])]) == 0
    dataset = raw / "Dataset002_Heart"
    parts = ["", "/dataset.json", "/imagesTr", "/imagesTs", "/labelsTr", "/imagesTs/la_030_0000.nii.gz"]
    files = [f"/imagesTr/{case}_0000.nii.gz" for case in CASES] + [f"/labelsTr/{case}.nii.gz" for case in CASES]
    assert tree(raw) == sorted(dataset.name + path for path in parts + files)
    for path, original in (
        ("imagesTr/la_007_0000.nii.gz", "imagesTr/la_007.nii.gz"),
        ("imagesTs/la_030_0000.nii.gz", "imagesTs/la_030.nii.gz"),
        ("labelsTr/la_007.nii.gz", "labelsTr/la_007.nii.gz"),
    ):
        assert (dataset / path).is_symlink() == link
        assert (dataset / path).read_bytes() == (source / original).read_bytes()
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "MRI"}
    assert content["labels"] == {"background": 0, "left atrium": 1}
    assert (content["numTraining"], content["licence"]) == (20, "CC-BY-SA 4.0")
    out = capsys.readouterr().out
    assert "Test cases, which have no label, for imagesTs: 1" in out
    assert "!" not in out


def test_number_and_name(source, raw, monkeypatch, tmp_path):
    renamed = source.rename(source.with_name("my download"))
    assert main(["convert", "heart", str(renamed), "-d", "77"]) == 0
    assert (raw / "Dataset077_Heart").is_dir()


def test_another_dataset_of_the_same_number_elsewhere(source, raw, monkeypatch, tmp_path, capsys):
    # nnU-Net's converter itself would also refuse the dataset's own preprocessed folder.
    (tmp_path / "preprocessed" / "Dataset002_Heart").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert main(["convert", "heart", str(source)]) == 0
    (tmp_path / "preprocessed" / "Dataset003_Liver").mkdir()
    assert "number 3 is taken by Dataset003_Liver" in fails(capsys, "heart", source, "-d", "3")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr", "dataset.json"])
def test_missing_part(source, raw, capsys, part):
    (source / part).rename(source / "elsewhere")
    assert f"no {part}; give the Decathlon's folder Task02_Heart" in fails(capsys, "heart", source)


def test_checks_of_msd_folders(source, raw, capsys):
    truncate(source / "imagesTs" / "la_030.nii.gz")
    assert "imagesTs/la_030.nii.gz: cannot be read" in fails(capsys, "heart", source)
    write(source / "labelsTr" / "la_004.nii.gz", label((13, 11, 7), (2,)))
    assert "la_004: label value 2 is not in dataset.json" in fails(capsys, "heart", source)
    (source / "labelsTr" / "la_004.nii.gz").unlink()
    assert "no label in labelsTr for image: la_004" in fails(capsys, "heart", source)
    assert not raw.exists()


def test_a_failing_converter_leaves_nothing(source, raw, capsys, monkeypatch, tmp_path):
    write(source / "imagesTr" / "_la.nii.gz", image((5, 5, 5), 0))
    broken = tmp_path / "nowhere"
    monkeypatch.setattr("nnunet_cpr.datasets.heart.link_for_conversion", lambda dataset, parent: broken / "imagesTs")
    shutil.rmtree(source / "imagesTs")
    assert "nnUNetv2_convert_MSD_dataset failed: " in fails(capsys, "heart", source)
    assert tree(raw) == []


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"{HIPPOCAMPUS} is absent")
def test_real_data_in_the_same_layout(raw, capsys):
    assert main(["convert", "heart", str(HIPPOCAMPUS), "--link"]) == 0
    dataset = raw / "Dataset004_Hippocampus"
    assert len(os.listdir(dataset / "imagesTr")) == len(os.listdir(dataset / "labelsTr")) == 200
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 200
    out = capsys.readouterr().out
    assert "! 200 training cases found, 20 were published" in out
    assert "! the labels are Anterior, Posterior, Heart's is left atrium" in out
