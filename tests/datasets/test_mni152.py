import itertools
import json
import sys

import nibabel as nib
import numpy as np
import pytest

from nnunet_cpr.datasets import mni152


def test_labels_are_the_most_probable_class():
    gray = np.array([0.0, 0.4, 0.6, 0.3, 0.1, 0.5])
    white = np.array([0.0, 0.1, 0.3, 0.6, 0.2, 0.5])
    # background: 1.0, 0.5, 0.1, 0.1, 0.7, 0.0; of equal gray and white the lower label wins
    assert mni152.labels_from_maps(gray, white).tolist() == [0, 0, 1, 2, 0, 1]


def test_a_block_needs_both_tissues():
    labels = np.zeros(100, dtype=np.uint8)
    labels[:2] = 1
    assert not mni152.enough_tissue(labels)
    labels[2:4] = 2
    assert mni152.enough_tissue(labels)


def test_no_two_blocks_share_a_voxel_and_slabs_lie_apart():
    for one, other in itertools.combinations(mni152.all_blocks(), 2):
        gaps = [
            max(b.start - a.stop, a.start - b.stop) for a, b in zip(one.box, other.box, strict=True)
        ]  # along each axis; negative: overlap
        assert max(gaps) >= 4
        if one.slab != other.slab:
            assert gaps[1] >= 4


def test_all_blocks_lie_in_one_hemisphere():
    # the template is symmetric about voxel 98: a block of the other half would be a copy of one in this half
    assert max(block.box[0].stop for block in mni152.all_blocks()) <= 98


def test_every_fold_validates_on_one_slab_and_trains_on_the_others():
    blocks = mni152.all_blocks()
    slab = {block.name: block.slab for block in blocks}
    folds = mni152.folds(blocks)
    assert [sorted({slab[name] for name in fold["val"]}) for fold in folds] == [[2], [3], [4], [0], [1]]
    for fold in folds:
        assert not {slab[name] for name in fold["train"]} & {slab[name] for name in fold["val"]}
        assert sorted(fold["train"] + fold["val"]) == sorted(slab)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    pytest.importorskip("nilearn")
    folder = tmp_path_factory.mktemp("raw") / mni152.DATASET_NAME
    mni152.write_dataset(folder)
    return folder


def test_the_dataset_has_an_image_for_every_label_and_says_what_it_is(dataset):
    names = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").iterdir())
    assert sorted(p.name for p in (dataset / "imagesTr").iterdir()) == [f"{name}_0000.nii.gz" for name in names]
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["numTraining"] == len(names)
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert sorted(folds[0]["train"] + folds[0]["val"]) == names
    for text in (description["description"], (dataset / "README.md").read_text()):
        assert "not for claims" in text.replace("\n", " ")


def test_a_block_lies_where_it_was_cut(dataset):
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template()
    image = nib.load(dataset / "imagesTr" / "slab2_x064_z108_0000.nii.gz")
    label = nib.load(dataset / "labelsTr" / "slab2_x064_z108.nii.gz")
    assert image.shape == label.shape == mni152.BLOCK_SHAPE
    assert np.array_equal(image.affine, label.affine)
    corner = nib.affines.apply_affine(np.linalg.inv(template.affine) @ image.affine, [0, 0, 0])
    assert corner.tolist() == [64, 101, 108]
    here = template.get_fdata()[64:96, 101:133, 108:152]
    scale, offset = np.polyfit(here.ravel(), image.get_fdata().ravel(), 1)
    np.testing.assert_allclose(image.get_fdata(), scale * here + offset, atol=1e-5)
    assert set(np.unique(label.get_fdata())) == {0, 1, 2}


def test_intensities_are_standardized_over_all_blocks_together(dataset):
    voxels = np.stack([nib.load(path).get_fdata() for path in (dataset / "imagesTr").iterdir()])
    assert (voxels.mean(), voxels.std()) == pytest.approx((0, 1), abs=1e-4)
    assert voxels.mean(axis=(1, 2, 3)).std() > 0.1  # and not each block by itself
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "noNorm"}


def test_without_nilearn_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ValueError, match=r"pip install 'nnunet-cpr\[demo\]'"):
        mni152.write_dataset(tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
