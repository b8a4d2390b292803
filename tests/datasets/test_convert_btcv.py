import json

import nibabel as nib
import numpy as np
import pytest
from conversion_helpers import AFFINE, btcv, fails, image, label, read, swapped, tree, truncate, write

from nnunet_cpr.cli import main

CASES = ["img0001", "img0002", "img0003", "img0021", "img0040"]


@pytest.fixture
def source(tmp_path):
    return btcv(tmp_path / "Abdomen")


def convert(source, *flags: str) -> int:
    return main(["convert", "btcv", str(source), *flags])


def test_the_whole_dataset(source, raw, capsys):
    assert convert(source) == 0
    dataset = raw / "Dataset017_BTCV"
    assert tree(raw) == sorted(
        [dataset.name, *(f"{dataset.name}/{name}" for name in ("dataset.json", "imagesTr", "imagesTs", "labelsTr"))]
        + [f"{dataset.name}/imagesTr/{case}_0000.nii.gz" for case in CASES]
        + [f"{dataset.name}/labelsTr/{case}.nii.gz" for case in CASES]
        + [f"{dataset.name}/imagesTs/img0061_0000.nii.gz"]
    )
    training = source / "RawData" / "Training"
    copied = dataset / "imagesTr" / "img0021_0000.nii.gz"
    assert copied.read_bytes() == (training / "img" / "img0021.nii.gz").read_bytes()
    copied = dataset / "labelsTr" / "img0021.nii.gz"  # nothing to change, so the same bytes
    assert copied.read_bytes() == (training / "label" / "label0021.nii.gz").read_bytes()
    out = capsys.readouterr().out
    assert "! 5 training cases found, 30 were published" in out
    assert "nnUNetv2_plan_and_preprocess -d 17 --verify_dataset_integrity" in out


def test_the_description(source, raw):
    convert(source)
    content = json.loads((raw / "Dataset017_BTCV" / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}  # the name by which nnU-Net chooses CT's normalization
    assert content["numTraining"] == 5
    assert content["file_ending"] == ".nii.gz"
    assert list(content["labels"].values()) == list(range(14))
    organs = {"spleen": 1, "right kidney": 2, "left kidney": 3, "inferior vena cava": 9, "pancreas": 11}
    assert content["labels"].items() >= {**organs, "left adrenal gland": 13}.items()
    assert "synapse.org" in content["licence"] and "synapse.org" in content["reference"]


@pytest.mark.parametrize("inner", ["RawData", "."])
def test_raw_data_or_its_parent(source, raw, inner):
    assert convert(source / inner, "-d", "41") == 0
    assert (raw / "Dataset041_BTCV" / "imagesTs" / "img0061_0000.nii.gz").is_file()


def test_test_images_in_another_folder_or_none(source, raw):
    (source / "RawData" / "Testing").rename(source / "Test")
    assert convert(source) == 0
    assert (raw / "Dataset017_BTCV" / "imagesTs" / "img0061_0000.nii.gz").is_file()
    (source / "Test").rename(source / "elsewhere")
    assert convert(source, "-d", "18") == 0
    assert not (raw / "Dataset018_BTCV" / "imagesTs").exists()


def test_no_line_about_the_number_of_the_published_set(tmp_path, raw, capsys):
    numbers = tuple([*range(1, 11), *range(21, 41)])
    assert convert(btcv(tmp_path / "all", numbers, (14, 13, 5))) == 0
    out = capsys.readouterr().out
    assert "30 training cases written" in out
    assert "!" not in out


@pytest.mark.parametrize("which", ["spacing", "origin", "direction"])
def test_a_label_with_another_header_gets_its_images(source, raw, capsys, which):
    path = source / "RawData" / "Training" / "label" / "label0002.nii.gz"
    values = read(path).astype(np.float64)
    write(path, values, swapped(which))
    scanner = source / "RawData" / "Training" / "img" / "img0002.nii.gz"
    original = nib.Nifti1Image(read(scanner), AFFINE)
    original.set_sform(AFFINE, code=1)
    original.set_qform(AFFINE, code=1)
    nib.save(original, scanner)
    assert convert(source) == 0
    written = nib.load(raw / "Dataset017_BTCV" / "labelsTr" / "img0002.nii.gz")
    assert np.array_equal(written.dataobj, values)
    assert written.get_data_dtype() == np.uint8
    assert np.allclose(written.affine, original.affine)
    assert written.header.get_zooms() == original.header.get_zooms()
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (1, 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "the label's header" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"! img0002: the label's header has the {which} (")


def test_rounded_headers_agree(source, raw, capsys):
    path = source / "RawData" / "Training" / "label" / "label0002.nii.gz"
    write(path, read(path), AFFINE + 1e-6)
    assert convert(source) == 0
    assert "the label's header" not in capsys.readouterr().out


def test_another_size(source, raw, capsys):
    write(source / "RawData" / "Training" / "label" / "label0002.nii.gz", label((19, 15, 8), (1,)))
    line = fails(capsys, "btcv", source)
    assert "img0002: the label label0002.nii.gz has the size (19, 15, 8), not the (19, 15, 9) of its image" in line


def test_unknown_label(source, raw, capsys):
    path = source / "RawData" / "Training" / "label" / "label0003.nii.gz"
    array = read(path).copy()
    array[0, 0, :2] = 14, 200
    write(path, array)
    assert "img0003: unknown label value 14, 200 in " in fails(capsys, "btcv", source)
    assert not raw.exists()


@pytest.mark.parametrize("folder", ["img", "label"])
def test_missing_partner(source, raw, capsys, folder):
    (source / "RawData" / "Training" / folder / f"{folder}0003.nii.gz").unlink()
    other = "label" if folder == "img" else "img"
    what = "label" if folder == "label" else "image"
    assert f"no {what} for {'label' if what == 'image' else 'image'} {other}0003" in fails(capsys, "btcv", source)


@pytest.mark.parametrize(
    "file", ["Training/img/img0040.nii.gz", "Training/label/label0040.nii.gz", "Testing/img/img0061.nii.gz"]
)
def test_truncated_file(source, raw, capsys, file):
    truncate(source / "RawData" / file)
    assert f"{file}: cannot be read" in fails(capsys, "btcv", source)
    assert not raw.exists()


def test_images_that_nnunet_refuses(source, raw, capsys):
    path = source / "RawData" / "Training" / "img" / "img0001.nii.gz"
    write(path, np.full((18, 15, 10), np.nan, dtype=np.float32))
    assert "img0001.nii.gz holds NaN" in fails(capsys, "btcv", source)
    write(path, image((18, 15, 10), 0)[..., None])
    assert "an image has three dimensions" in fails(capsys, "btcv", source)


def test_another_folder(tmp_path, raw, capsys):
    assert "RawData/Training/img/imgNNNN.nii.gz not found" in fails(capsys, "btcv", tmp_path)
