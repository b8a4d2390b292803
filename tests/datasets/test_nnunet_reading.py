"""What `nnunet-cpr convert` takes, nnU-Net can read: its own check of a dataset is the measure."""

import gzip
import json
import os
import random
import shutil
import struct
from pathlib import Path

import damaging
import nibabel as nib
import numpy as np
import pytest
from conversion_helpers import AFFINE, amos, brats, btcv, fails, image, label, read, tree, write

from nnunet_cpr.cli import main
from nnunet_cpr.datasets.case_files import Case, check_case, write_case
from nnunet_cpr.datasets.nnunet_reading import reader_name

pytest.importorskip("nnunetv2")
from nnunetv2.experiment_planning import verify_dataset_integrity as verification
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

READERS = {"SimpleITKIO": ".nii.gz", "NibabelIO": ".nii", "NibabelIOWithReorient": ".nii.gz"}
CLASSES = {reader.__name__: reader for reader in (SimpleITKIO, NibabelIO, NibabelIOWithReorient)}
REFUSED = "nnU-Net's reader SimpleITKIO cannot read it: its axes are not at right angles"


def shear(path: Path, by: float = 0.6) -> None:
    """Let slices lean, as with a tilted gantry: in the sform alone, so that no other placement can be taken."""
    affine = AFFINE.copy()
    affine[1, 2] = by
    sheared = nib.Nifti1Image(read(path), affine)
    sheared.set_qform(None, 0)
    sheared.set_sform(affine, 1)
    nib.save(sheared, path)


def heart(folder: Path) -> Path:
    for number in range(5):
        write(folder / "imagesTr" / f"la_{number}.nii.gz", image((13, 11, 7), number))
        write(folder / "labelsTr" / f"la_{number}.nii.gz", label((13, 11, 7), (1,)))
    write(folder / "imagesTs" / "la_9.nii.gz", image((13, 11, 7), 9))
    pairs = [{"image": f"./imagesTr/la_{n}.nii.gz", "label": f"./labelsTr/la_{n}.nii.gz"} for n in range(5)]
    description = {"name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}}
    (folder / "dataset.json").write_text(json.dumps(description | {"training": pairs, "test": [], "numTraining": 5}))
    return folder


BRATS_FILES = ("t1", "t1ce", "t2", "flair", "seg")
BRATS = "MICCAI_BraTS2020_TrainingData/BraTS20_Training_002/BraTS20_Training_002"


@pytest.mark.parametrize(
    ("dataset", "make", "files"),
    [
        ("btcv", btcv, ["RawData/Training/img/img0003.nii.gz", "RawData/Training/label/label0003.nii.gz"]),
        ("btcv", btcv, ["RawData/Testing/img/img0061.nii.gz"]),
        ("heart", heart, ["imagesTr/la_2.nii.gz", "labelsTr/la_2.nii.gz"]),
        ("heart", heart, ["imagesTs/la_9.nii.gz"]),
        ("brats2020", lambda folder: brats(folder, ".nii.gz"), [f"{BRATS}_{one}.nii.gz" for one in BRATS_FILES]),
    ],
)
def test_sheared_images_are_refused(tmp_path, raw, capsys, dataset, make, files):
    source = make(tmp_path / "source")
    for name in files:
        shear(source / name)
    line = fails(capsys, dataset, source, "-np", "1")
    assert f"{source / files[0]}: {REFUSED}" in line and "resample it" in line
    assert not raw.exists() or tree(raw) == []


@pytest.mark.parametrize("dataset", ["amos22", "brats2020"])
def test_sheared_images_that_nnunet_can_read(tmp_path, raw, capsys, dataset):
    """amos22's dataset.json names a reader that uses nibabel, and nnU-Net has no other one for the mirror's .nii."""
    source = (amos if dataset == "amos22" else brats)(tmp_path / "source")
    files = ["imagesTr/amos_0004.nii.gz", "labelsTr/amos_0004.nii.gz"]
    if dataset == "brats2020":
        files = [f"{BRATS}_{one}.nii" for one in BRATS_FILES]
    for name in files:
        shear(source / name)
    assert main(["convert", dataset, str(source), "-np", "1"]) == 0


def test_a_sheared_label_of_btcv_gets_its_images_header(tmp_path, raw, capsys):
    source = btcv(tmp_path / "source")
    shear(source / "RawData" / "Training" / "label" / "label0003.nii.gz", by=7.5e-4)  # where its image is to nibabel
    assert main(["convert", "btcv", str(source), "-np", "1"]) == 0
    assert "! img0003: the label's header cannot be read by nnU-Net" in capsys.readouterr().out
    SimpleITKIO().read_seg(str(raw / "Dataset017_BTCV" / "labelsTr" / "img0003.nii.gz"))


def test_a_spacing_that_only_nnunet_tells_apart(tmp_path, raw, capsys):
    """Less than a thousandth of a voxel, more than nnU-Net's check tolerates."""
    source = btcv(tmp_path / "source")
    path = source / "RawData" / "Training" / "label" / "label0002.nii.gz"
    write(path, read(path), AFFINE + 2e-5)
    assert main(["convert", "btcv", str(source), "-np", "1"]) == 0
    assert (
        "! img0002: the label's header has the spacing (0.79998, 0.80002, 3.00002) to nnU-Net"
        in capsys.readouterr().out
    )
    files = [
        str(raw / "Dataset017_BTCV" / part) for part in ("imagesTr/img0002_0000.nii.gz", "labelsTr/img0002.nii.gz")
    ]
    assert verification.check_cases(files[:1], files[1], 1, SimpleITKIO)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_spacing(tmp_path, raw, capsys, value):
    source = brats(tmp_path / "source")
    path = source / f"{BRATS}_t1.nii"
    content = bytearray(path.read_bytes())
    content[84:88] = struct.pack("<f", value)
    path.write_bytes(content)
    assert "_t1.nii: its header gives no spacing along an axis" in fails(capsys, "brats2020", source, "-np", "1")


def test_the_reader_is_nnunets():
    assert [reader_name(ending, {}) for ending in (".nii.gz", ".nii")] == ["SimpleITKIO", "NibabelIO"]
    assert reader_name(".nii.gz", {"overwrite_image_reader_writer": "NibabelIOWithReorient"}) == "NibabelIOWithReorient"
    assert reader_name(".nii.gz", {"overwrite_image_reader_writer": "None"}) == "SimpleITKIO"


def test_hidden_cases_of_a_decathlon_folder_are_said(tmp_path, raw, capsys):
    source = heart(tmp_path / "source")
    shutil.copy(source / "imagesTr" / "la_1.nii.gz", source / "imagesTr" / ".la_7.nii.gz")
    (source / "imagesTr" / "._la_1.nii.gz").write_bytes(b"as macOS leaves them")
    assert main(["convert", "heart", str(source), "-np", "1", "--dry-run"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(said) == 1 and ".la_7.nii.gz is left out" in said[0]


def test_turning_back_ignores_what_macos_leaves(tmp_path):
    write(tmp_path / "p" / "a.nii.gz", label((9, 8, 7), (1, 2, 3)))
    (tmp_path / "p" / "._a.nii.gz").write_bytes(b"as macOS leaves them")
    assert main(["convert", "brats2020", "--inverse", str(tmp_path / "p"), str(tmp_path / "out"), "-np", "1"]) == 0
    assert tree(tmp_path / "out") == ["a.nii.gz"]


# Headers changed at random


def odd_file(path: Path, array: np.ndarray, generator: random.Random, changes: list[int]) -> None:
    """Write an image whose header has some changed numbers, the same ones for the same seeds."""
    affine = AFFINE.copy()
    affine[0, 1] = generator.choice([0, 0, 1e-7, 1e-5, 1e-4, 1e-3, 0.1])
    written = nib.Nifti1Image(array, affine)
    if generator.random() < 0.3:
        written.set_qform(affine, 1, strip_shears=True)
    uncompressed = path.with_name("x.nii")
    nib.save(written, uncompressed)
    content = uncompressed.read_bytes()
    for seed in changes:
        content = damaging._header(content, random.Random(seed))[1]
    uncompressed.unlink()
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)


def compare_with_nnunet(folder: Path, count: int, seed: int) -> int:
    """Convert odd cases; return how many were taken, all of which nnU-Net's check must take."""
    taken = 0
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        name = generator.choice(list(READERS))
        paths = [folder / f"{part}{READERS[name]}" for part in ("image", "label")]
        voxels = image((7, 6, 5), number)
        changes = [generator.randrange(10**6) for _ in range(generator.choice([0, 1, 1, 2]))]
        affine, both = generator.random(), generator.random() < 0.6
        odd_file(paths[0], voxels, random.Random(affine), changes)
        odd_file(paths[1], (voxels > 500).astype(np.uint8), random.Random(affine), changes if both else [])
        output = folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        for part in ("imagesTr", "labelsTr"):
            (output / part).mkdir(parents=True)
        values = {0: 0, 1: 1}
        try:
            checked = check_case(Case("c", (paths[0],), paths[1]), values, generator.random() < 0.5, name)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        taken += 1
        write_case(checked, output, READERS[name], values, link=False)
        files = str(output / "imagesTr" / f"c_0000{READERS[name]}"), str(output / "labelsTr" / f"c{READERS[name]}")
        good = verification.check_cases([files[0]], files[1], 1, CLASSES[name])
        assert good and verification.verify_labels(files[1], CLASSES[name], [0, 1]), f"{name}, number {number}"
    return taken


@pytest.mark.filterwarnings("ignore")
def test_nnunets_check_takes_what_convert_takes(tmp_path):
    count = damaging.inputs(60)
    assert compare_with_nnunet(tmp_path, count, int(os.environ.get("SEED", 0))) > count / 3
