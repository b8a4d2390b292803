import dataclasses
import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from nnunet_cpr.images import Geometry, UnsuitableFile, difference, itk_geometry, nifti_geometry, nifti_voxels

SPACING = (0.7, 0.8, 2.5)
ORIGIN = (31.0, -47.5, 60.25)
SIZE = (6, 7, 8)
TOLERATED = 0.7e-3  # a thousandth of the smallest spacing


def affine(spacing=SPACING, origin=ORIGIN, angles=(0.1, -0.2, 0.3), shear=0.0) -> np.ndarray:
    matrix = np.eye(4)
    sheared = np.eye(3)
    sheared[1, 2] = shear
    matrix[:3, :3] = Rotation.from_rotvec(angles).as_matrix() @ sheared @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


def geometry(matrix: np.ndarray | None = None, size=SIZE) -> Geometry:
    return nifti_geometry(nib.Nifti1Image(np.zeros(size, np.uint8), affine() if matrix is None else matrix))


def test_what_a_header_says():
    found = geometry()
    assert found.size == SIZE
    assert found.spacing == pytest.approx(SPACING)
    assert found.origin.tolist() == list(ORIGIN)
    assert found.direction == pytest.approx(Rotation.from_rotvec((0.1, -0.2, 0.3)).as_matrix(), abs=1e-6)
    assert found.steps == pytest.approx(affine()[:3, :3], abs=1e-12)


@pytest.mark.parametrize("size", [(6, 7, 8), (6, 7, 1), (6, 7)])
def test_simpleitk_finds_the_same_place(tmp_path, size):
    angles = (0.1, -0.2, 0.3) if len(size) == 3 else (0.0, 0.0, 0.3)  # a plane cannot lean for SimpleITK
    origin = ORIGIN if len(size) == 3 else (*ORIGIN[:2], 0.0)
    matrix = affine(angles=angles, origin=origin)
    nib.save(nib.Nifti1Image(np.zeros(size, np.uint8), matrix), tmp_path / "x.nii.gz")
    nibabels, itks = geometry(matrix, size), itk_geometry(tmp_path / "x.nii.gz")
    assert difference(nibabels, itks) == difference(itks, nibabels) == ""
    for name in ("size", "spacing", "origin", "direction"):
        one, other = getattr(nibabels, name), getattr(itks, name)
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_another_format(tmp_path):
    image = SimpleITK.Image(SIZE, SimpleITK.sitkUInt8)
    image.SetSpacing(SPACING)
    image.SetOrigin((-ORIGIN[0], -ORIGIN[1], ORIGIN[2]))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    straight = affine(angles=(0, 0, 0)) @ np.diag([-1, -1, 1, 1])  # its axes run to the left and posterior
    assert difference(geometry(straight), itk_geometry(tmp_path / "x.nrrd")) == ""


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("part", ["spacing", "origin"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_tolerance_of_spacing_and_origin(part, axis, sign):
    def moved(by: float) -> Geometry:
        values = getattr(geometry(), part).copy()
        values[axis] += sign * by
        return dataclasses.replace(geometry(), **{part: values})

    assert difference(geometry(), moved(0.9 * TOLERATED)) == ""
    assert difference(geometry(), moved(1.1 * TOLERATED)).startswith(f"has the {part} (")


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_tolerance_of_directions(row, axis):
    """By the step in mm: with thick slices a small angle moves the next slice as far."""

    def turned(by: float) -> Geometry:
        direction = geometry().direction.copy()
        direction[row, axis] += by / SPACING[axis]
        return dataclasses.replace(geometry(), direction=direction)

    assert difference(geometry(), turned(0.9 * TOLERATED)) == ""
    assert difference(geometry(), turned(1.1 * TOLERATED)).startswith("has the direction (")


@pytest.mark.parametrize(("spacing", "tolerated"), [(0.1, 1e-4), (1.0, 1e-3), (4.0, 1e-3)])
def test_a_thousandth_of_a_voxel_or_a_micrometer(spacing, tolerated):
    here = geometry(affine((spacing, 5.0, 5.0)))
    for by, same in ((0.9 * tolerated, True), (1.1 * tolerated, False)):
        there = geometry(affine((spacing, 5.0, 5.0), (ORIGIN[0], ORIGIN[1] + by, ORIGIN[2])))
        assert (difference(here, there) == "") == same


@pytest.mark.parametrize("axes", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_swapped_axes(axes):
    order = [*axes, 3]
    assert difference(geometry(), geometry(size=tuple(np.take(SIZE, axes)))).startswith("has the size ")
    assert difference(geometry(), geometry(affine()[:, order])).startswith("has the spacing ")
    cube = affine((1.0, 1.0, 1.0))
    assert difference(geometry(cube), geometry(cube[:, order])).startswith("has the direction ")
    assert difference(geometry(cube), geometry(cube[order])).startswith("has the origin ")


def test_the_words():
    here = geometry(affine(angles=(0, 0, 0)))
    assert difference(here, here) == ""
    assert difference(here, geometry(size=(6, 7, 9))) == "has the size (6, 7, 9), not the (6, 7, 8) of"
    there = geometry(affine((0.7, 0.8, 3), angles=(0, 0, 0)))
    assert difference(here, there) == "has the spacing (0.7, 0.8, 3), not the (0.7, 0.8, 2.5) of"
    there = geometry(affine(origin=(31.25, -47.5, 60), angles=(0, 0, 0)))
    assert difference(here, there) == "has the origin (31.25, -47.5, 60), not the (31, -47.5, 60.25) of"
    there = geometry(affine(angles=(0, 0, 0)) @ np.diag([-1, 1, 1, 1]))
    expected = "has the direction (-1, 0, 0, 0, 1, 0, 0, 0, 1), not the (1, 0, 0, 0, 1, 0, 0, 0, 1) of"
    assert difference(here, there) == expected


def test_shears_are_compared():
    sheared = geometry(affine(shear=0.1))
    assert difference(sheared, geometry(affine(shear=0.1))) == ""
    assert difference(geometry(affine(shear=0.1)), geometry(affine(shear=-0.1))).startswith("has the direction ")


def test_spacing_and_affine_that_contradict_each_other():
    """nnU-Net takes the spacing; the step is that of the affine, and both must agree with the other image's."""
    odd = nib.Nifti1Image(np.zeros(SIZE, np.uint8), affine(angles=(0, 0, 0)))
    odd.header["pixdim"][2] = 1.6
    consistent = affine((0.7, 1.6, 2.5), angles=(0, 0, 0))
    assert nifti_geometry(odd).spacing == pytest.approx((0.7, 1.6, 2.5))
    assert difference(geometry(affine(angles=(0, 0, 0))), nifti_geometry(odd)).startswith("has the spacing ")
    assert difference(geometry(consistent), nifti_geometry(odd)).startswith("has the direction (1, 0, 0, 0, 0.5, ")


@pytest.mark.parametrize("part", ["spacing", "origin", "direction"])
def test_what_is_no_number_differs(part):
    odd = dataclasses.replace(geometry(), **{part: getattr(geometry(), part) * np.nan})
    assert difference(geometry(), odd).startswith(f"has the {part} (nan, ")
    assert difference(odd, odd).startswith("has the ")


def test_channels_are_part_of_the_size():
    assert geometry(size=(6, 7, 8, 2)).size == (6, 7, 8, 2)
    assert geometry(size=(6, 7, 8, 2)).steps.shape == (3, 3)
    assert difference(geometry(), geometry(size=(6, 7, 8, 1))).startswith("has the size (6, 7, 8, 1), not the")


def test_a_path_at_which_simpleitk_would_end_the_process(tmp_path):
    path = tmp_path / "b\udcffd.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SIZE, np.uint8), affine()), path)
    with pytest.raises(UnsuitableFile, match="takes only paths in UTF-8; rename the file or folder"):
        itk_geometry(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_promises_more_than_the_file_can_hold_takes_no_memory(tmp_path, ending, monkeypatch):
    """A damaged size of 14 GB was allocated before nibabel noticed, and the system ended the process."""
    content = bytearray(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_bytes())
    content[40:48] = struct.pack("<4h", 3, 30_000, 20_000, 10_000)
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    image = nib.load(path)
    monkeypatch.setattr(np, "asanyarray", lambda _: pytest.fail("it is read"))
    with pytest.raises(ValueError, match="12,000,000,000,000 bytes of voxels"):
        nifti_voxels(image)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_nothing_compresses_better_than_that(tmp_path, ending, dtype):
    path = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(np.zeros((200, 200, 100), dtype), np.eye(4)), path)
    assert nifti_voxels(nib.load(path)).shape == (200, 200, 100)
    assert nifti_voxels(nib.Nifti1Image(np.ones((2, 2, 2), dtype), np.eye(4))).all()  # in memory, without a file
