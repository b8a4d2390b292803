"""Planes come upright, whatever the order of a file's axes and whatever its format."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from nnunet_cpr.evaluation.readers.volumes import open_image, open_segmentation

SHAPE, SPACING = (5, 7, 9), (1.0, 2.0, 3.0)
"""Of axes from left to right, back to front, foot to head."""
LEFT, FRONT, HEAD = 11, 12, 13
"""Values of voxels that lie in these directions of the middle one."""


def patient() -> nib.Nifti1Image:
    """A volume in RAS+ with marks around its middle, which lies at the origin."""
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    middle = tuple(size // 2 for size in SHAPE)
    x, y, z = middle
    voxels[x - 2, y, z], voxels[x, y + 2, z], voxels[x, y, z + 2] = LEFT, FRONT, HEAD
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = -np.array(middle) * SPACING
    return nib.Nifti1Image(voxels, affine)


def at(plane, value):
    """(row, column) of a mark, counted from the middle of the plane."""
    row, column = np.argwhere(plane == value)[0]
    return row - plane.shape[0] // 2, column - plane.shape[1] // 2


ORIENTATIONS = [
    "".join(axis[flip] for axis, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(["LR", "PA", "IS"])
    for flips in itertools.product((0, 1), repeat=3)
]


def check(volume):
    axes = {volume.plane_name(axis): axis for axis in range(3)}
    assert sorted(axes) == ["axial", "coronal", "sagittal"]
    middle = {name: volume.shape[axis] // 2 for name, axis in axes.items()}
    axial, coronal, sagittal = (volume.plane(axes[n], middle[n]) for n in ("axial", "coronal", "sagittal"))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((7, 5), (9, 5), (9, 7))
    assert at(axial, LEFT) == (0, 2) and at(axial, FRONT) == (2, 0)  # the patient's left on the right, the front up
    assert at(coronal, LEFT) == (0, 2) and at(coronal, HEAD) == (2, 0)
    assert at(sagittal, FRONT) == (0, 2) and at(sagittal, HEAD) == (2, 0)
    assert volume.aspect(axes["axial"]) == pytest.approx(2)
    assert volume.aspect(axes["coronal"]) == pytest.approx(3)
    assert volume.aspect(axes["sagittal"]) == pytest.approx(1.5)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_order_of_axes(tmp_path, codes):
    image = patient()
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    nib.save(turned, tmp_path / "a.nii.gz")
    check(open_segmentation(tmp_path / "a.nii.gz"))
    read = open_segmentation(tmp_path / "a.nii.gz")
    assert (read.labels() == np.asarray(turned.dataobj)).all()
    check(read)  # planes of what was kept are the same


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
@pytest.mark.parametrize("flips", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_formats_that_simpleitk_reads(tmp_path, ending, flips):
    path = tmp_path / f"a.b_0000{ending}"  # names may have dots
    nib.save(patient(), tmp_path / "a.nii")
    image = SimpleITK.Flip(SimpleITK.ReadImage(str(tmp_path / "a.nii")), [flips[0] < 0, flips[1] < 0, False])
    SimpleITK.WriteImage(image, str(path))
    check(open_segmentation(path))
    check(open_image(path))
    check(open_segmentation(path, None if ending == ".nii" else "SimpleITKIO"))


def test_tiffs_in_space_need_the_readers_name(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    voxels = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    for name in ("a.tif", "a_0000.tif"):
        tifffile.imwrite(tmp_path / name, voxels)
    (tmp_path / "a.json").write_text('{"spacing": [4, 2, 1]}')
    segmentation, image = (
        open_segmentation(tmp_path / "a.tif", "Tiff3DIO"),
        open_image(tmp_path / "a_0000.tif", "Tiff3DIO"),
    )
    for volume in (segmentation, image):
        axis = volume.best_axis()
        assert volume.shape[axis] == 5 and volume.aspect(axis) == 2
        assert (volume.plane(axis, 3)[::-1] == voxels[3]).all()  # drawn from the lower edge upwards


def test_photographs_stay_as_they_are(tmp_path):
    io = pytest.importorskip("skimage.io")
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    io.imsave(tmp_path / "gray.png", gray, check_contrast=False)
    io.imsave(tmp_path / "color.png", np.stack([gray, gray * 0, gray * 0], axis=-1), check_contrast=False)
    for volume in (open_segmentation(tmp_path / "gray.png"), open_image(tmp_path / "color.png")):
        assert (volume.shape, volume.best_axis()) == ((4, 3, 1), 2)
        assert (volume.plane(2, 0)[::-1] == gray).all() and volume.aspect(2) == 1


def test_plane_nifti_and_channels(tmp_path):
    plane = np.arange(12, dtype=np.int16).reshape(3, 4)
    nib.save(nib.Nifti1Image(plane, np.diag([-2.0, 3.0, 1.0, 1.0])), tmp_path / "plane.nii.gz")  # x to the left
    volume = open_segmentation(tmp_path / "plane.nii.gz")
    assert volume.best_axis() == 2 and volume.aspect(2) == 1.5  # although it is finer than the others
    assert (volume.plane(2, 0) == plane.T).all()
    assert volume.labels().shape == (3, 4, 1)
    assert (volume.plane(2, 0) == plane.T).all()
    channels = np.stack([plane[..., None], plane[..., None] + 100], axis=-1)
    nib.save(nib.Nifti1Image(channels, np.diag([-2.0, 3.0, 1.0, 1.0])), tmp_path / "channels.nii.gz")
    assert (open_image(tmp_path / "channels.nii.gz").plane(2, 0) == plane.T).all()


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((1, 1, 1), "axial"),
        ((0.7, 0.7, 5), "axial"),
        ((4, 0.5, 0.5), "sagittal"),
        ((0.5, 4, 0.5), "coronal"),
        ((1.2, 1.2, 1), "axial"),  # hardly coarser: still the planes one is used to
    ],
)
def test_the_plane_that_was_acquired_is_looked_at(tmp_path, spacing, plane):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.diag([*spacing, 1])), tmp_path / "a.nii")
    volume = open_segmentation(tmp_path / "a.nii")
    assert volume.plane_name(volume.best_axis()) == plane


def test_labels_that_were_stored_as_floats(tmp_path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 2.0000001), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    labels = open_segmentation(tmp_path / "a.nii").labels()
    assert labels.dtype.kind == "i" and (labels == 2).all()


def test_only_the_plane_of_an_image_is_scaled(tmp_path):
    """nibabel would make float64 of the whole volume."""
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()[::-1, :, 1].T
    assert open_image(tmp_path / "a.nii").plane(2, 1) == pytest.approx(expected)
