import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hippocampus import HIPPOCAMPUS

from nnunet_cpr.datasets.msd import check_cases, link_for_conversion, open_nifti, read_msd

CASES = [f"case_{number}" for number in range(5)]


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A correct dataset of five cases, for the tests to spoil."""
    folder = tmp_path / "Task07_My_Organ"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    label = np.zeros((4, 5, 6), dtype=np.uint8)
    label[1, 1, 1] = 1
    for case in CASES:
        write(folder / "imagesTr" / f"{case}.nii.gz", np.ones((4, 5, 6), dtype=np.float32))
        write(folder / "labelsTr" / f"{case}.nii.gz", label)
    describe(folder)
    return folder


def describe(folder: Path, **changes) -> None:
    entries = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content | changes))


def test_a_good_folder_passes_and_gets_nnunets_name(folder):
    dataset = read_msd(folder)
    assert dataset.cases == tuple(CASES)
    assert dataset.nnunet_name == "Dataset007_MyOrgan"
    check_cases(dataset)


@pytest.mark.parametrize(
    ("name", "nnunet_name"),
    [("my data", "Dataset999_mydata"), ("Task123_X", "Dataset123_X"), ("---", "Dataset999_Data")],
)
def test_any_folder_name_will_do(folder, name, nnunet_name):
    assert read_msd(folder.rename(folder.with_name(name))).nnunet_name == nnunet_name


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_missing_folder(folder, part):
    (folder / part).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=f"no folder {part}; --data takes a folder with imagesTr, labelsTr"):
        read_msd(folder)


def test_missing_or_broken_description(folder):
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json: not valid JSON"):
        read_msd(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"no dataset\.json"):
        read_msd(folder)


def test_description_without_modality(folder):
    describe(folder, modality={})
    with pytest.raises(ValueError, match="modality missing"):
        read_msd(folder)


@pytest.mark.parametrize(
    "labels", [{"background": 0, "organ": 1}, {"0": "background", "2": "organ"}], ids=["nnunet v2", "gap"]
)
def test_labels_that_nnunet_would_refuse(folder, labels):
    describe(folder, labels=labels)
    with pytest.raises(ValueError, match='labels must be "0", "1", "2"'):
        read_msd(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["background", "lesion", "lesion"], "the labels 1 and 2 are both called 'lesion'; name them apart"),
        (["background", "background"], "the labels 0 and 1 are both called 'background'"),
        (["Background", "lesion"], "nnU-Net wants label 0 to be called \"background\", not 'Background'"),
        (["background", "ignore", "lesion"], "nnU-Net wants the label 'ignore' to have the highest value"),
    ],
)
def test_names_of_labels_that_nnunet_would_lose_or_fail_on(folder, names, message):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    describe(folder, labels={str(value): name for value, name in enumerate(names)})
    with pytest.raises(ValueError, match=rf"dataset\.json: {message}"):
        read_msd(folder)
    converted = {name: value for value, name in enumerate(names)}  # as nnU-Net's converter does it
    if len(converted) == len(names):
        with pytest.raises((RuntimeError, AssertionError)):
            LabelManager(converted, None)


@pytest.mark.parametrize("names", [["background", "ignored", "Ignore"], ["background", "", "a", "ignore"]])
def test_names_of_labels_that_nnunet_takes(folder, names):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    describe(folder, labels={str(value): name for value, name in enumerate(names)})
    read_msd(folder)
    LabelManager({name: value for value, name in enumerate(names)}, None)


def test_a_label_that_is_written_twice(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"1": "organ"', '"1": "organ", "1": "vessel"'))
    with pytest.raises(ValueError, match=r"dataset\.json: '1' is there twice"):
        read_msd(folder)


def test_image_without_label(folder):
    (folder / "labelsTr" / "case_3.nii.gz").unlink()
    with pytest.raises(ValueError, match="no label in labelsTr for image: case_3; add the label or remove the image"):
        read_msd(folder)


def test_label_without_image(folder):
    (folder / "labelsTr" / "case_9.nii.gz").write_bytes((folder / "labelsTr" / "case_1.nii.gz").read_bytes())
    with pytest.raises(ValueError, match="no image in imagesTr for label: case_9"):
        read_msd(folder)


def test_listed_case_that_is_not_there(folder):
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "case_2.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"listed in dataset\.json, but not in imagesTr: case_2"):
        read_msd(folder)


def test_too_few_cases(folder):
    describe(folder, training=[{"image": "./imagesTr/case_0.nii.gz"}])
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "case_4.nii.gz").unlink()
    with pytest.raises(ValueError, match="4 cases in imagesTr, nnU-Net's 5 folds need at least 5"):
        read_msd(folder)


def bad(folder: Path, message: str) -> None:
    dataset = read_msd(folder)
    with pytest.raises(ValueError, match=message):
        check_cases(dataset)


def test_shape_mismatch(folder):
    write(folder / "labelsTr" / "case_1.nii.gz", np.zeros((4, 5, 7), dtype=np.uint8))
    bad(folder, r"case_1: the image's shape is \(4, 5, 6\), the label's \(4, 5, 7\); resample")


def test_affine_mismatch(folder):
    write(folder / "imagesTr" / "case_1.nii.gz", np.ones((4, 5, 6), dtype=np.float32), np.diag([1.5, 1, 1, 1]))
    bad(
        folder,
        r"case_1: image and label lie at different places \(the label has the spacing \(1, 1, 1\), not the \(1\.5, 1",
    )


def test_images_with_channels(folder):
    for case in CASES:
        write(folder / "imagesTr" / f"{case}.nii.gz", np.ones((4, 5, 6, 2), dtype=np.float32), np.diag([1, 1, 2, 1]))
        write(folder / "labelsTr" / f"{case}.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8), np.diag([1, 1, 2, 1]))
    describe(folder, modality={"0": "T1", "1": "T2"})
    check_cases(read_msd(folder))
    write(folder / "labelsTr" / "case_3.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8), np.diag([1, 2, 1, 1]))
    bad(folder, "case_3: image and label lie at different places")


def test_unknown_label_value(folder):
    write(folder / "labelsTr" / "case_2.nii.gz", np.full((4, 5, 6), 7, dtype=np.uint8))
    bad(folder, r"case_2: label value 7 is not in dataset\.json, which knows \{0: 'background', 1: 'organ'\}")


def test_a_label_value_is_told_to_the_last_digit(folder):
    write(folder / "labelsTr" / "case_2.nii.gz", np.full((4, 5, 6), 1.0000001))
    bad(folder, "case_2: label value 1.0000001 is not in")
    write(folder / "labelsTr" / "case_2.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    bad(folder, "case_2: label value 2, 3, 4, 5, 6 and 113 more is not in")


def test_fractional_label_value(folder):
    write(folder / "labelsTr" / "case_2.nii.gz", np.full((4, 5, 6), 0.5, dtype=np.float32))
    bad(folder, "case_2: label value 0.5 is not in")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_truncated_file(folder, part):
    path = folder / part / "case_3.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    bad(folder, rf"{part}/case_3\.nii\.gz: cannot be read \(.*\); replace the file")


@pytest.mark.parametrize("where", [-6, 0.5], ids=["checksum", "middle"])
def test_damaged_bytes(folder, where):
    path = folder / "imagesTr" / "case_3.nii.gz"
    write(path, np.random.default_rng(0).random((4, 5, 6), dtype=np.float32))
    content = bytearray(path.read_bytes())
    position = where if isinstance(where, int) else int(len(content) * where)
    content[position : position + 4] = bytes(255 - byte for byte in content[position : position + 4])
    path.write_bytes(content)
    bad(folder, r"case_3\.nii\.gz: cannot be read \(.*\); replace the file")


def test_truncated_uncompressed_file(folder):
    path = folder / "x.nii"
    write(path, np.ones((4, 5, 6), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^[^\n]*x\.nii: cannot be read \([^\n]*\); replace the file[^\n]*$"):
        open_nifti(path)


def test_not_an_image(folder):
    (folder / "imagesTr" / "case_0.nii.gz").write_text("no image")
    bad(folder, r"case_0\.nii\.gz: cannot be read")


def test_nan_in_an_image(folder):
    write(folder / "imagesTr" / "case_4.nii.gz", np.full((4, 5, 6), np.nan, dtype=np.float32))
    bad(folder, "case_4: the image holds NaN or infinite voxels")


def test_nan_in_a_place(folder):
    path = folder / "x.nii"
    write(path, np.ones((4, 5, 6), dtype=np.float32))
    content = bytearray(path.read_bytes())
    content[300:304] = np.float32(np.nan).tobytes()  # in srow_y of the NIfTI-1 header
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.nii: cannot be read \(its place in space, the affine, holds NaN"):
        open_nifti(path)


@pytest.mark.parametrize("key", ["labels", "modality"])
def test_a_name_that_is_no_text(folder, key):
    names = {"labels": {"0": "background", "1": [None]}, "modality": {"0": "MRI", "1": [None]}}[key]
    describe(folder, **{key: names})
    with pytest.raises(ValueError, match=rf"dataset\.json: the name of {key} 1 is \[None\], not a text"):
        read_msd(folder)


def test_channels_must_agree_with_the_modalities(folder):
    write(folder / "imagesTr" / "case_0.nii.gz", np.ones((4, 5, 6, 2), dtype=np.float32))
    bad(folder, r"case_0: the image's shape is \(4, 5, 6, 2\), but .* names 1 channel")


def test_the_converter_gets_what_it_insists_on(folder, tmp_path):
    linked = link_for_conversion(read_msd(folder), tmp_path / "msd")
    linked = link_for_conversion(read_msd(folder), tmp_path / "msd")  # again, as after an interruption
    assert linked.name == "Task07_MyOrgan"
    assert list((linked / "imagesTs").iterdir()) == []
    assert (linked / "imagesTr" / "case_0.nii.gz").is_file()
    description = json.loads((linked / "dataset.json").read_text())
    assert description["numTraining"] == 5
    assert description["test"] == []


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"{HIPPOCAMPUS} is absent")
def test_hippocampus_passes():
    dataset = read_msd(HIPPOCAMPUS)
    assert (dataset.nnunet_name, len(dataset.cases)) == ("Dataset004_Hippocampus", 200)
    check_cases(dataset)
