"""Segmentations as files: what nnU-Net's readers make of them is the measure."""

import struct
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from evaluation_helpers import SPACING, noise
from evaluation_helpers import write_segmentation as write
from scipy.spatial.transform import Rotation

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.readers.prediction_folders import read_folders
from nnunet_cpr.evaluation.readers.segmentation_files import check_geometry, list_cases, read_pair, read_segmentation

pytest.importorskip("nnunetv2")
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO


def affine(shear: float = 0.0) -> np.ndarray:
    """Voxels of SPACING in an oblique image, of which the third axis may lean toward the second."""
    matrix, sheared = np.eye(4), np.eye(3)
    sheared[1, 2] = shear
    matrix[:3, :3] = Rotation.from_rotvec((0.1, -0.2, 0.3)).as_matrix() @ sheared @ np.diag(SPACING)
    matrix[:3, 3] = 31, -47.5, 60.25
    return matrix


def nifti(path: Path, array: np.ndarray, shear: float = 0.0, qform: bool = False) -> Path:
    """An array (x, y, z) with its placement in the sform, and with `qform` also there, where it can have no shear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine(shear))
    if qform:
        image.set_sform(affine(shear), code=1)
        image.set_qform(affine(shear), code=1, strip_shears=True)
    nib.save(image, path)
    return path


def scaled(path: Path) -> Path:
    """Labels stored ten times as large, and a header that says so."""
    nifti(path, noise(1) * 10)
    content = bytearray(path.read_bytes())
    content[112:116] = struct.pack("<f", 0.1)
    path.write_bytes(content)
    return path


# Reading


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
def test_formats_and_order_of_axes(tmp_path, ending):
    array = noise(0)
    found, spacing = read_segmentation(write(tmp_path / f"x{ending}", array))
    assert np.array_equal(found, array)
    assert spacing == pytest.approx(SPACING[::-1], rel=1e-6)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_is_read_as_nnunet_reads_it(tmp_path, reader, dtype, ending):
    path = nifti(tmp_path / f"x{ending}", noise(0).astype(dtype))
    expected, properties = reader().read_seg(str(path))
    found, spacing = read_segmentation(path)
    assert found.dtype == np.uint16 and found.flags.c_contiguous
    assert np.array_equal(found, expected[0])
    assert spacing == properties["spacing"]  # to the last bit, and so are distances


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (1, 5, 6), (5, 6, 7, 1)])
def test_odd_shapes_are_read_as_nnunet_reads_them(tmp_path, shape):
    path = nifti(tmp_path / "x.nii.gz", noise(0, shape=shape))
    expected, properties = SimpleITKIO().read_seg(str(path))
    found, spacing = read_segmentation(path)
    assert np.array_equal(found, expected[0])
    assert spacing == properties["spacing"]
    check_geometry(path, path)


def test_scaled_labels_are_read_as_nnunet_reads_them(tmp_path):
    path = scaled(tmp_path / "x.nii")
    assert 3 < nib.load(path).get_fdata().max() < 3.0001  # in double precision
    found = read_segmentation(path)[0]
    assert np.array_equal(found, noise(1).T)
    assert np.array_equal(found, NibabelIO().read_seg(str(path))[0][0])


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "X.NII.GZ"])
def test_simpleitk_does_not_read_nifti(tmp_path, monkeypatch, name):
    """Neither once, for it takes a truncated file for whole, nor besides nibabel: reading is what takes the time."""
    paths = [nifti(tmp_path / f / name.lower(), noise(0)) for f in ("a", "b")]
    paths = [path.rename(path.with_name(name)) for path in paths]
    monkeypatch.setattr(SimpleITK, "ReadImage", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(SimpleITK, "ImageFileReader", lambda *_: pytest.fail("read"))
    check_geometry(*paths)
    read_segmentation(paths[0])


def test_large_labels_are_read(tmp_path):
    image = np.full((2, 2, 2), 65535, np.uint16)
    assert (read_segmentation(write(tmp_path / "x.nii.gz", image))[0] == 65535).all()


def test_a_plane_image_has_one_slice(tmp_path):
    assert read_segmentation(write(tmp_path / "x.png", noise(1, shape=(6, 7))))[0].shape == (1, 6, 7)


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "nii"])
@pytest.mark.parametrize(("value", "said"), [(0.5, "0.5"), (-1.0, "-1"), (np.nan, "nan"), (70000.0, "70000")])
def test_a_file_of_something_else_than_labels_is_named(tmp_path, value, said, ending):
    image = np.zeros((3, 3, 3), np.float32)
    image[1, 1, 1] = value
    with pytest.raises(ValueError, match=rf"x\.{ending} holds {said}; labels are whole numbers"):
        read_segmentation(write(tmp_path / f"x.{ending}", image))


def test_images_of_several_channels_are_no_segmentations(tmp_path):
    SimpleITK.WriteImage(SimpleITK.Image([4, 5], SimpleITK.sitkVectorUInt8, 3), str(tmp_path / "x.png"))
    nifti(tmp_path / "x.nii", np.zeros((4, 5, 6, 3), np.uint8))
    nifti(tmp_path / "x.nii.gz", np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"{path.name} has 3 channels; a segmentation has one"):
            read_segmentation(path)


def test_a_spacing_that_is_no_number(tmp_path):
    path = nifti(tmp_path / "x.nii", noise(0))
    content = bytearray(path.read_bytes())
    content[80:84] = struct.pack("<f", np.nan)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.nii has the spacing \[2\.5, .*, nan\] \(z, y, x\); correct its header"):
        read_segmentation(path)


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("nii", r"its header says [\d,]+ bytes of voxels, which a file .*"),
        ("nrrd", "(?!Exception thrown|RuntimeError).+"),
    ],
)
def test_the_reason_is_one_line_that_says_something(tmp_path, ending, reason):
    path = write(tmp_path / f"x.{ending}", noise(0, shape=(30, 40, 50)))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=rf"x\.{ending} cannot be read; it may be damaged or truncated \({reason}\)$"):
        read_segmentation(path)


def test_two_files_of_one_case(tmp_path):
    for ending in (".nii.gz", ".nrrd"):
        write(tmp_path / f"case1{ending}", noise(1))
    with pytest.raises(ValueError, match=r"case1\.nii\.gz and .*case1\.nrrd are of the same case"):
        list_cases(tmp_path)


# Headers that SimpleITK refuses, or reads as another placement than nibabel does


def simpleitk_refuses(path: Path) -> None:
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(path))


def predicted(reader: type, reference: Path, path: Path, array: np.ndarray) -> Path:
    """An array (z, y, x) as nnU-Net writes it for an image that it has read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = reader()
    writer.write_seg(array, str(path), writer.read_seg(str(reference))[1])
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("shear", [0.0005, 0.1])
def test_sheared_images(tmp_path, ending, shear):
    reference = nifti(tmp_path / "labels" / f"x{ending}", noise(0), shear)
    simpleitk_refuses(reference)
    prediction = predicted(NibabelIO, reference, tmp_path / "p" / f"x{ending}", noise(1).T)
    simpleitk_refuses(prediction)
    found = read_folders(reference.parent, {"P": prediction.parent}, "D", 1).set_index("label")["value"]
    expected = compute_metrics(str(reference), str(prediction), NibabelIO(), [1, 2, 3])["metrics"]
    assert found.to_dict() == {str(k): pytest.approx(v["Dice"], abs=1e-12) for k, v in expected.items()}
    nifti(prediction, noise(1), shear + 0.01)
    with pytest.raises(ValueError, match=r"p/x\.nii.* has the (direction|spacing) .* its reference .*labels/x\.nii"):
        check_geometry(reference, prediction)


@pytest.mark.parametrize("writer", [SimpleITKIO, NibabelIO])
def test_a_prediction_has_one_of_its_references_two_placements(tmp_path, writer):
    """SimpleITK takes the qform where the sform has shears, nibabel the sform, and nnU-Net writes what it has read."""
    reference = nifti(tmp_path / "labels" / "x.nii.gz", noise(0), shear=0.1, qform=True)
    prediction = predicted(writer, reference, tmp_path / "p" / "x.nii.gz", noise(1).T)
    placements = nib.load(reference).affine, nib.load(prediction).affine
    assert np.allclose(*placements, atol=1e-3) == (writer is NibabelIO)
    check_geometry(reference, prediction)
    moved = nib.load(prediction).affine + np.eye(4)[:, [2, 3, 1, 0]]
    nib.save(nib.Nifti1Image(noise(1), moved), prediction)
    with pytest.raises(ValueError, match=r"p/x\.nii\.gz has the .* of its reference .*labels/x\.nii\.gz"):
        check_geometry(reference, prediction)


def test_a_header_without_placement(tmp_path):
    reference = tmp_path / "labels" / "x.nii.gz"
    reference.parent.mkdir()
    image = nib.Nifti1Image(noise(0), None)
    image.header.set_zooms(SPACING)
    nib.save(image, reference)
    for writer in (SimpleITKIO, NibabelIO):
        check_geometry(reference, predicted(writer, reference, tmp_path / "p" / "x.nii.gz", noise(1).T))


def test_a_sheared_file_and_one_that_cannot_be_sheared(tmp_path):
    reference = nifti(tmp_path / "labels" / "x.nii.gz", noise(0), shear=0.1)
    with pytest.raises(ValueError, match=r"p/x\.nrrd has the spacing .* of its reference .*labels/x\.nii\.gz"):
        check_geometry(reference, write(tmp_path / "p" / "x.nrrd", noise(1).T))


def test_compare_takes_sheared_files(tmp_path, capsys):
    """Distances go along the axes: SimpleITK cannot say them for such a file, nnU-Net and this package can."""
    pytest.importorskip("monai")
    mask = np.zeros((9, 10, 11), np.uint8)
    mask[2:6, 2:7, 3:8] = 1
    longer = mask.copy()
    longer[2:6, 2:7, 8] = 1  # one voxel of 2.5 mm more
    for name, array in (("labels", mask), ("same", mask), ("longer", longer)):
        for case in "ab":
            path = nifti(tmp_path / name / f"{case}.nii.gz", array, shear=0.001)
    simpleitk_refuses(path)
    command = ["compare", "--reference", str(tmp_path / "labels"), "--surface", "-np", "1"]
    command += ["--pred", f"same={tmp_path / 'same'}", f"longer={tmp_path / 'longer'}", "-o", str(tmp_path / "report")]
    assert main(command) == 0
    rows = (tmp_path / "report" / "cases.csv").read_text().splitlines()
    values = {tuple(row.split(",")[1:6]): float(row.split(",")[6]) for row in rows[1:]}
    assert values["same", "0", "a", "1", "HD95"] == 0
    assert values["longer", "0", "a", "1", "HD95"] == pytest.approx(2.5, rel=1e-5)
    assert values["longer", "0", "a", "1", "Dice"] == pytest.approx(2 * 5 / 11)


def test_what_numpy_and_itk_complain_of_is_one_line(tmp_path, capfd):
    """Neither NumPy's nor ITK's own complaint stands before ours."""
    write(tmp_path / "good.nii.gz", np.zeros((3, 4, 5), np.uint8))
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 1j, np.complex64), np.eye(4)), tmp_path / "complex.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((0, 4, 5), np.uint8), np.eye(4)), tmp_path / "empty.nii.gz")
    infinite = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4))
    infinite.header["pixdim"][1] = np.inf
    nib.save(infinite, tmp_path / "infinite.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"infinite\.nii\.gz has the spacing"):
            read_pair(tmp_path / "infinite.nii.gz", tmp_path / "infinite.nii.gz")
        with pytest.raises(ValueError, match=r"complex\.nii\.gz holds complex numbers"):
            read_segmentation(tmp_path / "complex.nii.gz")
        with pytest.raises(ValueError, match=r"good\.nii\.gz has the size"):
            check_geometry(tmp_path / "empty.nii.gz", tmp_path / "good.nii.gz")
    assert capfd.readouterr() == ("", "")
