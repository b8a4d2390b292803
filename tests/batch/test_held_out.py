"""What is refused as a test set: before anything starts, in one line with the files."""

import gzip
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from batch_helpers import DATASET, prepared_dataset, raw_with_test_set, write_nifti

from nnunet_cpr.batch.held_out import test_set_mistakes as mistakes_of
from nnunet_cpr.batch.study import read_study


@pytest.fixture
def raw(tmp_path):
    prepared_dataset(tmp_path / "preprocessed")
    return raw_with_test_set(tmp_path / "raw")


def mistakes(raw):
    return mistakes_of(raw, raw.parents[1] / "preprocessed" / raw.name)


def rename(raw, before, after):
    (raw / before).rename(raw / after)


def compress_anew(raw):
    (raw / "imagesTs" / "test_1_0000.nii.gz").write_bytes(
        gzip.compress(gzip.decompress((raw / "imagesTr" / "case_2_0000.nii.gz").read_bytes()), 0)
    )


def copy(raw, source, target):
    shutil.copy(raw / source, raw / target)


def link(raw):
    (raw / "labelsTs" / "test_1.nii.gz").unlink()
    (raw / "labelsTs" / "test_1.nii.gz").symlink_to(raw / "labelsTr" / "case_3.nii.gz")


def copy_of_a_preprocessed_label(raw):
    truths = raw.parents[1] / "preprocessed" / DATASET / "gt_segmentations"
    shutil.copy(raw / "labelsTs" / "test_2.nii.gz", truths / "case_9.nii.gz")


def listed_elsewhere(raw):
    """A dataset.json that lists its training files, which lie anywhere."""
    elsewhere = raw.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(raw / "imagesTs" / "test_0_0000.nii.gz", elsewhere / "a.nii.gz")
    shutil.copy(raw / "labelsTr" / "case_0.nii.gz", elsewhere / "b.nii.gz")
    files = {"first": {"images": ["../elsewhere/a.nii.gz"], "label": str(elsewhere / "b.nii.gz")}}
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"dataset": files}))


def two_channels(raw):
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"channel_names": {"0": "T1", "1": "T2"}}))
    for k in range(4):
        write_nifti(raw / "imagesTr" / f"case_{k}_0001.nii.gz", np.arange(k, 120 + k).reshape(4, 5, 6))
    for k in range(2):
        write_nifti(raw / "imagesTs" / f"test_{k}_0001.nii.gz", np.arange(9 + k, 129 + k).reshape(4, 5, 6))


REFUSED = {
    "no labelsTs": (lambda raw: shutil.rmtree(raw / "labelsTs"), r"^missing: [^,]*labelsTs; test_set: true needs"),
    "neither": (lambda raw: [shutil.rmtree(raw / f"{kind}Ts") for kind in ("images", "labels")],
                r"^missing: .*imagesTs, .*labelsTs; "),
    "no label": (lambda raw: [path.unlink() for path in (raw / "labelsTs").iterdir()], r"labelsTs holds no label"),
    "no image": (lambda raw: (raw / "imagesTs" / "test_1_0000.nii.gz").unlink(),
                 r"labelsTs/test_1.nii.gz has no image .*imagesTs/test_1_0000.nii.gz"),
    "no second channel": (two_channels, r"the test case test_2 must have 2 channels, .* has test_2_0000.nii.gz$"),
    "channels from 1 on": (lambda raw: rename(raw, "imagesTs/test_1_0000.nii.gz", "imagesTs/test_1_0001.nii.gz"),
                           r"the test case test_1 must have 1 channels, from _0000 on, but has test_1_0001.nii.gz"),
    "no channel": (lambda raw: rename(raw, "imagesTs/test_1_0000.nii.gz", "imagesTs/test_1.nii.gz"),
                   r"imagesTs/test_1.nii.gz: not named as nnU-Net's CASE_0000.nii.gz"),
    "macOS": (lambda raw: (raw / "labelsTs" / "._test_1.nii.gz").touch(), r"/\._test_1.nii.gz: not named as"),
    "another ending": (lambda raw: rename(raw, "labelsTs/test_1.nii.gz", "labelsTs/test_1.nrrd"),
                       r"labelsTs/test_1.nrrd: another ending than .nii.gz"),
    "name of a case": (lambda raw: [rename(raw, "labelsTs/test_1.nii.gz", "labelsTs/case_2.nii.gz"),
                                    rename(raw, "imagesTs/test_1_0000.nii.gz", "imagesTs/case_2_0000.nii.gz")],
                       r"labelsTs/case_2.nii.gz has the name of the training case .*labelsTr/case_2.nii.gz"),
    "preprocessed case": (lambda raw: [rename(raw, "labelsTs/test_1.nii.gz", "labelsTs/case_9.nii.gz"),
                                       rename(raw, "imagesTs/test_1_0000.nii.gz", "imagesTs/case_9_0000.nii.gz")],
                          r"labelsTs/case_9.nii.gz has the name of .*gt_segmentations/case_9.nii.gz"),
    "copied image": (lambda raw: copy(raw, "imagesTr/case_2_0000.nii.gz", "imagesTs/test_1_0000.nii.gz"),
                     r"imagesTs/test_1_0000.nii.gz has the same content as .*imagesTr/case_2_0000.nii.gz"),
    "compressed anew": (compress_anew, r"imagesTs/test_1_0000.nii.gz has the same .*imagesTr/case_2_0000.nii.gz"),
    "copied label": (lambda raw: copy(raw, "labelsTr/case_0.nii.gz", "labelsTs/test_2.nii.gz"),
                     r"labelsTs/test_2.nii.gz has the same content as .*labelsTr/case_0.nii.gz"),
    "linked label": (link, r"labelsTs/test_1.nii.gz has the same content as .*labelsTr/case_3.nii.gz"),
    "preprocessed label": (copy_of_a_preprocessed_label, r"test_2.nii.gz has the same .*gt_segmentations/case_9"),
    "listed training file": (listed_elsewhere, r"imagesTs/test_0_0000.nii.gz has the same .*/elsewhere/a.nii.gz"),
    "several copies": (lambda raw: [copy(raw, f"{kind}Tr/case_2{channel}.nii.gz", f"{kind}Ts/test_1{channel}.nii.gz")
                                    for kind, channel in (("images", "_0000"), ("labels", ""))],
                       r"has the same content as .* \(1 more file likewise\)"),
    "no dataset.json": (lambda raw: (raw / "dataset.json").unlink(), r"the test set cannot be checked .*dataset.json"),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED)
def test_refused(raw, change):
    damage, expected = REFUSED[change]
    damage(raw)
    (found,) = mistakes(raw)
    assert re.search(expected, found)


def uncompressed(raw):
    """Files that have all the same size, none the same content."""
    for path in list(raw.rglob("*.nii.gz")):
        nib.save(nib.load(path), path.with_name(path.name.removesuffix(".gz")))
        path.unlink()
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii"}))


def empty_masks(raw):
    """Two labels without the structure are equal and no copies."""
    for label in ("labelsTr/case_1.nii.gz", "labelsTs/test_1.nii.gz"):
        write_nifti(raw / label, np.zeros((4, 5, 6)))


def equal_ends(raw):
    """Files compressed in parts, of which the last ones, and so the files' checksums, are equal."""
    for image in ("imagesTr/case_1_0000.nii.gz", "imagesTs/test_1_0000.nii.gz"):
        content = gzip.decompress((raw / image).read_bytes())
        (raw / image).write_bytes(gzip.compress(content) + gzip.compress(b"the same"))


ACCEPTED = {
    "equal ends": equal_ends,
    "as it is": lambda raw: None,
    "more images than labels": lambda raw: write_nifti(raw / "imagesTs" / "more_0000.nii.gz", np.eye(9)),
    "uncompressed": uncompressed,
    "empty masks": empty_masks,
    "other files": lambda raw: [(raw / f"{part}Ts" / "README.md").touch() for part in ("images", "labels")],
    "no training files": lambda raw: [shutil.rmtree(raw / f"{part}Tr") for part in ("images", "labels")],
}


@pytest.mark.parametrize("change", ACCEPTED)
def test_accepted(raw, change):
    ACCEPTED[change](raw)
    assert mistakes(raw) == []


def test_a_copy_among_uncompressed_files(raw):
    uncompressed(raw)
    shutil.copy(raw / "imagesTr" / "case_0_0000.nii", raw / "imagesTs" / "test_0_0000.nii")
    (found,) = mistakes(raw)
    assert "imagesTs/test_0_0000.nii has the same content as the training file" in found


def test_a_study_names_the_line_and_the_dataset(raw, tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    path = tmp_path / "study.yaml"
    path.write_text("datasets: [4]\ntrainers: [nnUNetTrainerCPR]\ntest_set: true\n")
    assert read_study(path).test_set
    copy(raw, "labelsTr/case_0.nii.gz", "labelsTs/test_2.nii.gz")
    with pytest.raises(ValueError) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}:3: {DATASET}: {raw}/labelsTs/test_2.nii.gz has the same content as")
    assert len(str(error.value).splitlines()) == 1
    path.write_text("datasets: [4]\ntrainers: [nnUNetTrainerCPR]\n")
    assert not read_study(path).test_set
