import json
import os
import shutil

import numpy as np
import pytest
from conversion_helpers import (
    AFFINE,
    BRATS_CHANNELS,
    brats,
    brats_validation,
    fails,
    label,
    read,
    tree,
    truncate,
    write,
)
from nnunetv2.dataset_conversion import Dataset137_BraTS21 as nnunet

from nnunet_cpr.cli import main

NAME = "Dataset082_BraTS2020"
FOLDER = "MICCAI_BraTS2020_TrainingData"


@pytest.fixture
def source(tmp_path):
    return brats(tmp_path / "BraTS2020_TrainingData")


def case_file(source, number: int, part: str, ending: str = ".nii"):
    name = f"BraTS20_Training_{number:03d}"
    return source / FOLDER / name / f"{name}_{part}{ending}"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_labels_and_images_as_nnunets_conversion_writes_them(tmp_path, raw, ending):
    source = brats(tmp_path / "source", ending)
    assert main(["convert", "brats2020", str(source)]) == 0
    for number in (1, 355):
        name = f"BraTS20_Training_{number:03d}"
        original = case_file(source, number, "seg", ending)
        if ending == ".nii" and number == 355:
            original = original.with_name("W39_1998.09.19_Segm.nii")
        expected = tmp_path / f"expected{ending}"
        nnunet.copy_BraTS_segmentation_and_convert_labels_to_nnUNet(str(original), str(expected))
        written = raw / NAME / "labelsTr" / f"{name}{ending}"
        assert set(np.unique(read(expected))) == {0, 1, 2, 3}
        assert np.array_equal(read(written), read(expected))
        for index, channel in enumerate(BRATS_CHANNELS):
            copied = raw / NAME / "imagesTr" / f"{name}_{index:04d}{ending}"
            assert copied.read_bytes() == case_file(source, number, channel, ending).read_bytes()


def test_the_description(source, raw):
    main(["convert", "brats2020", str(source)])
    content = json.loads((raw / NAME / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
    assert content["labels"] == regions
    assert content["regions_class_order"] == [1, 2, 3]
    assert (content["numTraining"], content["file_ending"]) == (5, ".nii")


@pytest.mark.parametrize("where", [".", FOLDER, ".."])
def test_the_download_or_a_folder_in_it(source, raw, where):
    assert main(["convert", "brats2020", str(source / where), "--dry-run"]) == 0


def test_only_the_misnamed_case_may_have_that_name(source, raw, capsys):
    path = case_file(source, 2, "seg")
    path.rename(path.with_name("W39_1998.09.19_Segm.nii"))
    line = fails(capsys, "brats2020", source)
    assert line.endswith(
        "BraTS20_Training_002: no BraTS20_Training_002_seg.nii; add what is missing or remove the case"
    )


def test_missing_channel(source, raw, capsys):
    case_file(source, 4, "t1ce").unlink()
    assert "BraTS20_Training_004: no BraTS20_Training_004_t1ce.nii;" in fails(capsys, "brats2020", source)


def test_a_label_elsewhere_is_an_error(source, raw, capsys):
    affine = AFFINE.copy()
    affine[0, 3] = 91
    path = case_file(source, 3, "seg")
    write(path, read(path), affine)
    line = fails(capsys, "brats2020", source)
    assert "BraTS20_Training_003: the label BraTS20_Training_003_seg.nii has the origin (91, -70.5, -40.25)" in line


def test_channels_must_agree(source, raw, capsys):
    path = case_file(source, 3, "flair")
    write(path, read(path), np.diag([1, 1, 1, 1]))
    assert "BraTS20_Training_003: BraTS20_Training_003_flair.nii has the spacing" in fails(capsys, "brats2020", source)


def test_value_three_is_unknown(source, raw, capsys):
    write(case_file(source, 1, "seg"), label((17, 15, 9), (1, 2, 3)))
    line = fails(capsys, "brats2020", source)
    assert "BraTS20_Training_001: unknown label value 3 in " in line
    assert "known are 0, 1, 2, 4" in line


def test_truncated_file(tmp_path, raw, capsys):
    source = brats(tmp_path / "official", ".nii.gz")
    truncate(case_file(source, 2, "t2", ".nii.gz"))
    assert "BraTS20_Training_002_t2.nii.gz: cannot be read" in fails(capsys, "brats2020", source)


def test_predictions_get_the_challenges_labels_back(source, raw, tmp_path):
    main(["convert", "brats2020", str(source)])
    predictions = raw / NAME / "labelsTr"
    (predictions / "dataset.json").write_text("{}")  # nnU-Net leaves such files beside its predictions
    output = tmp_path / "out" / "submission"
    assert main(["convert", "brats2020", "--inverse", str(predictions), str(output)]) == 0
    assert len(list(output.iterdir())) == 5
    name = "BraTS20_Training_002.nii"
    assert np.array_equal(read(output / name), read(case_file(source, 2, "seg")))
    assert np.array_equal(read(output / name), nnunet.convert_labels_back_to_BraTS(read(predictions / name)))


def test_what_a_killed_call_has_left_is_named(tmp_path, capsys):
    predictions, output = tmp_path / "predictions", tmp_path / "out[1]"
    write(predictions / "a.nii.gz", label((13, 9, 9), (1, 2, 3)))
    left = tmp_path / ".out[1]-abcdefgh"
    left.mkdir()
    assert main(["convert", "brats2020", "--inverse", str(predictions), str(output)]) == 0
    assert f"! {left} is left from a conversion that was killed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_named_instead_of_waited_for(kind, tmp_path, capsys):
    predictions = tmp_path / "predictions"
    write(predictions / "a.nii.gz", label((13, 9, 9), (1, 2, 3)))
    odd = predictions / "b.nii.gz"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("gone")}[kind](odd)
    assert f"{odd} is not a file" in fails(capsys, "brats2020", "--inverse", predictions, tmp_path / "output")


def test_a_link_to_nothing_is_in_the_way(tmp_path, capsys):
    predictions, output = tmp_path / "predictions", tmp_path / "output"
    write(predictions / "a.nii.gz", label((13, 9, 9), (1, 2, 3)))
    output.symlink_to(tmp_path / "elsewhere")
    assert f"{output} exists; delete it" in fails(capsys, "brats2020", "--inverse", predictions, output)


def test_what_cannot_be_turned_back(source, raw, tmp_path, capsys):
    predictions, output = tmp_path / "predictions", tmp_path / "output"
    write(predictions / "a.nii.gz", label((13, 9, 9), (1, 2, 4)))
    line = fails(capsys, "brats2020", "--inverse", predictions, output)
    assert "a.nii.gz: label value 4 is not nnU-Net's" in line
    assert not output.exists()
    assert "exists; delete it" in fails(capsys, "brats2020", "--inverse", predictions, predictions)
    assert "no .nii.gz or .nii files" in fails(capsys, "brats2020", "--inverse", source / FOLDER, output)
    assert "btcv: nnU-Net's label values are" in fails(capsys, "btcv", "--inverse", predictions, output)
    assert "--inverse takes" in fails(capsys, "brats2020", source, "--inverse", predictions, output)


# The validation cases


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
def test_validation_cases_are_test_images(tmp_path, raw, capsys, ending, link):
    source = brats(tmp_path / "source", ending)
    tests = brats_validation(source, ending)
    assert main(["convert", "brats2020", str(source), *(["--link"] if link else [])]) == 0
    found = sorted(path.name for path in (raw / NAME / "imagesTs").iterdir())
    assert found == [f"BraTS20_Validation_{n:03d}_{i:04d}{ending}" for n in (1, 2) for i in range(4)]
    for index, channel in enumerate(BRATS_CHANNELS):
        original = tests / "BraTS20_Validation_002" / f"BraTS20_Validation_002_{channel}{ending}"
        copied = raw / NAME / "imagesTs" / f"BraTS20_Validation_002_{index:04d}{ending}"
        assert copied.read_bytes() == original.read_bytes()
        assert copied.is_symlink() == link
    assert len(list((raw / NAME / "imagesTr").iterdir())) == 20 and len(list((raw / NAME / "labelsTr").iterdir())) == 5
    assert json.loads((raw / NAME / "dataset.json").read_text())["numTraining"] == 5
    out = capsys.readouterr().out
    assert f"! 2 validation cases found in {tests}, 125 were published" in out
    assert "Test cases, which have no label, for imagesTs: 2" in out


@pytest.mark.parametrize(
    ("given", "training", "validation"),
    [
        (".", ".", "."),  # official: both in SOURCE
        (FOLDER, ".", "."),  # SOURCE is the folder of the training cases, the other one lies beside it
        (".", "BraTS2020_TrainingData", "BraTS2020_ValidationData"),  # the mirror: SOURCE holds two outer folders
        ("BraTS2020_TrainingData", "BraTS2020_TrainingData", "BraTS2020_ValidationData"),
        (f"BraTS2020_TrainingData/{FOLDER}", "BraTS2020_TrainingData", "BraTS2020_ValidationData"),
        (".", "BraTS2020_TrainingData", "."),
        ("a/..", ".", "."),
    ],
)
@pytest.mark.parametrize("inside", [True, False], ids=["relative", "absolute"])
def test_where_validation_cases_are_found(tmp_path, raw, monkeypatch, capsys, given, training, validation, inside):
    download = tmp_path / "x" / "download"
    (download / "a").mkdir(parents=True)
    brats(download / training, numbers=(1, 2))
    brats_validation(download / validation, numbers=(7,))
    if inside:
        monkeypatch.chdir(download / given)
    assert main(["convert", "brats2020", "." if inside else str(download / given), "--dry-run"]) == 0
    assert "Test cases, which have no label, for imagesTs: 1" in capsys.readouterr().out


def test_without_validation_cases(source, raw, capsys):
    assert main(["convert", "brats2020", str(source)]) == 0
    assert not (raw / NAME / "imagesTs").exists()
    out = capsys.readouterr().out
    assert "Test cases, which have no label, for imagesTs: 0" in out
    assert "validation cases" not in out


def test_a_folder_without_validation_cases(source, raw, capsys):
    shutil.rmtree(brats_validation(source) / "BraTS20_Validation_001")
    shutil.rmtree(source / "MICCAI_BraTS2020_ValidationData" / "BraTS20_Validation_002")
    assert main(["convert", "brats2020", str(source), "--dry-run"]) == 0
    assert "! 0 validation cases found in " in capsys.readouterr().out


def test_all_validation_cases_are_no_reason_for_a_line(source, raw, capsys):
    brats_validation(source, numbers=tuple(range(1, 126)), shape=(3, 3, 3))
    assert main(["convert", "brats2020", str(source), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Test cases, which have no label, for imagesTs: 125" in out
    assert "validation cases" not in out


def test_a_bad_validation_case_leaves_no_dataset(source, raw, capsys):
    tests = brats_validation(source)
    path = tests / "BraTS20_Validation_002" / "BraTS20_Validation_002_flair.nii"
    write(path, read(path), np.diag([1, 1, 1, 1]))
    line = fails(capsys, "brats2020", source)
    assert "BraTS20_Validation_002: BraTS20_Validation_002_flair.nii has the spacing" in line
    truncate(path)
    assert "BraTS20_Validation_002_flair.nii: cannot be read" in fails(capsys, "brats2020", source)
    path.rename(path.with_suffix(".nii.gz"))
    line = fails(capsys, "brats2020", source)
    assert "BraTS20_Validation_002: no BraTS20_Validation_002_flair.nii; add what is missing or remove the case" in line
    assert not raw.exists() or tree(raw) == []


def test_predictions_of_validation_cases_get_the_challenges_labels_back(tmp_path):
    values = label((17, 15, 9), (1, 2, 3, 1))
    write(tmp_path / "predictions" / "BraTS20_Validation_001.nii.gz", values)
    output = tmp_path / "submission"
    assert main(["convert", "brats2020", "--inverse", str(tmp_path / "predictions"), str(output)]) == 0
    written = read(output / "BraTS20_Validation_001.nii.gz")
    assert np.array_equal(written, nnunet.convert_labels_back_to_BraTS(values))
    assert set(np.unique(written)) == {0, 1, 2, 4}
