"""Which cases are shown, and which slice of each."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import frame

from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.figures import slice_selection as case_slices
from nnunet_cpr.evaluation.figures.slice_selection import choose, read_slices
from nnunet_cpr.evaluation.readers.case_files import CaseFiles

LABELS = {"x": 1, "y": 2}


def table(**trainers):
    """Case rows with the foreground mean from trainer={case: Dice}."""
    return statistics.add_foreground(
        frame(**{t: {c: {"x": v} for c, v in cases.items()} for t, cases in trainers.items()})
    )


def chosen(cases, baseline="A"):
    return choose(cases, statistics.extremes(cases, baseline), baseline)


def test_the_worst_case_and_those_that_changed_most():
    cases = table(
        A={"a": 0.9, "b": 0.5, "c": 0.8, "d": 0.8},
        B={"a": 0.9, "b": 0.6, "c": 0.95, "d": 0.7},
        C={"a": 0.7, "b": 0.55, "c": 0.8, "d": 0.8},
    )
    assert [(one.case, one.trainers, one.reasons, one.against_reference) for one in chosen(cases)] == [
        ("b", ("A", "B"), ["lowest Dice of all (A, 0.500)"], "A"),
        ("d", ("A", "B"), ["lost most with B (−0.100)"], None),
        ("c", ("A", "B"), ["gained most with B (+0.150)"], None),
        ("a", ("A", "C"), ["lost most with C (−0.200)"], None),
        ("b", ("A", "C"), ["gained most with C (+0.050)"], None),
    ]


def test_a_case_with_two_reasons_is_shown_once():
    cases = table(A={"a": 0.9, "b": 0.7}, B={"a": 0.9, "b": 0.4})
    (choice,) = chosen(cases)
    assert (choice.case, choice.against_reference) == ("b", "B")
    assert choice.reasons == ["lowest Dice of all (B, 0.400)", "lost most with B (−0.300)"]


def test_nothing_gained_and_nothing_known():
    (choice,) = chosen(table(A={"a": 0.5}, B={"a": 0.5}))
    assert choice.reasons == ["lowest Dice of all (A, 0.500)"]
    assert chosen(table(A={"a": np.nan}, B={"a": np.nan})) == []


class Folder:
    """Volumes of one case on disk, and where they are."""

    def __init__(self, path, spacing=(1, 1, 1), labels=LABELS, ignore=None):
        self.path, self.affine, self.labels, self.ignore = path, np.diag([*spacing, 1.0]), labels, ignore

    def write(self, **volumes):
        for name, array in volumes.items():
            nib.save(nib.Nifti1Image(array, self.affine), self.path / f"{name}.nii.gz")

    def locate(self, dataset, run, fold, case):
        file = self.path / f"{run}.nii.gz"
        return CaseFiles(
            dataset, run, run, fold, case, self.path / "reference.nii.gz", file, self.labels,
            images=(self.path / "image.nii.gz",), ignore=self.ignore,
        )  # fmt: skip


def cube(shape, box, value=1):
    array = np.zeros(shape, dtype=np.uint8)
    array[box] = value
    return array


SHAPE = (30, 40, 20)
BOX = np.s_[10:20, 12:24, 5:15]


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    made.write(reference=cube(SHAPE, BOX), image=np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    return made


def read(folder, cases, baseline="A"):
    return read_slices(cases, statistics.extremes(cases, baseline), baseline, folder.locate)


def test_the_slice_where_both_segmentations_differ_most(folder):
    baseline = cube(SHAPE, BOX)
    trained = baseline.copy()
    trained[10:14, 12:20, 7] = 0  # 32 voxels
    trained[:, :, 12][10:15, 12:20] = 2  # 40 voxels
    baseline[:, :, 14] = 1  # wrong in both, and so not what tells them apart
    trained[:, :, 14] = 1
    folder.write(A=baseline, B=trained)
    cases = table(A={"c": 0.9, "z": 0.1}, B={"c": 0.8, "z": 0.1})
    slices, left_out = read(folder, cases[cases["case"] == "c"])
    assert left_out == []
    (shown,) = slices
    assert shown.position == "Axial slice 14 of 0 to 19, where B differs most from the reference."
    worst = read(folder, cases)[0]
    assert [one.position for one in worst] == [
        "Axial slice 14 of 0 to 19, where A differs most from the reference.",
        "Axial slice 12 of 0 to 19, where the two segmentations differ most.",
    ]
    changed = worst[1]
    # The patient's right is on the left: the first axis of this file runs the other way.
    assert (trained[:, :, 12][whole(changed, trained[:, :, 12])] == changed.segmentations[1].plane[:, ::-1].T).all()
    assert [(one.trainer, one.run, one.dice) for one in changed.segmentations] == [("A", None, 0.9), ("B", None, 0.8)]


def whole(shown, plane):
    """Where the cropped plane lies in the whole one, by its structures."""
    rows, columns = shown.reference.shape
    inside = np.argwhere(shown.segmentations[1].plane[:, ::-1].T)
    outside = np.argwhere(plane)
    x, y = outside.min(axis=0) - inside.min(axis=0)
    return np.s_[x : x + columns, y : y + rows]


def test_the_image_belongs_to_the_slice(folder):
    folder.write(A=cube(SHAPE, np.s_[10:20, 12:24, 6:15]), B=cube(SHAPE, BOX))
    ((shown,), _) = read(folder, table(A={"c": 0.8}, B={"c": 0.9}))
    volume = np.asarray(nib.load(folder.path / "image.nii.gz").dataobj)
    (x, y), z = np.argwhere(volume == shown.image[0, -1])[0][:2], 5  # the lower right corner: smallest x and y
    rows, columns = shown.image.shape
    assert (shown.image == volume[x : x + columns, y : y + rows, z][::-1].T).all()
    assert (shown.reference == cube(SHAPE, BOX)[x : x + columns, y : y + rows, z][::-1].T).all()


@pytest.mark.parametrize("box", [np.s_[80:120, 40:50, 3:6], np.s_[80:100, 40:60, 3:6]])
def test_the_window_is_a_square_in_mm_around_the_structures(tmp_path, box):
    """Both boxes are 20 mm long: the first along the columns, of 0.5 mm, the second along the rows, of 1 mm."""
    folder = Folder(tmp_path, spacing=(0.5, 1.0, 3.0))
    shape = (200, 100, 10)
    folder.write(reference=cube(shape, box), A=cube(shape, (*box[:2], np.s_[3:5])), B=cube(shape, box))
    ((shown,), _) = read(folder, table(A={"c": 0.8}, B={"c": 0.9}))
    assert shown.position.startswith("Axial slice 5 ") and shown.image is None
    assert shown.aspect == 2  # pixels are 0.5 mm wide and 1 mm high
    height, width = (size * mm for size, mm in zip(shown.reference.shape, (1.0, 0.5), strict=True))
    assert height == pytest.approx(width, abs=2) and 24 < height < 31  # 20 mm, a margin of 15 % and whole pixels
    assert (shown.reference == 1).sum() == 400


def test_a_large_slice_is_drawn_smaller(tmp_path):
    folder = Folder(tmp_path)
    reference = cube((600, 600, 3), np.s_[1:599, 1:599, 1])
    image = np.zeros((600, 600, 3), dtype=np.int16)
    image[::3] = 30
    folder.write(reference=reference, A=reference * 0, B=reference, image=image)
    ((shown,), _) = read(folder, table(A={"c": 0.0}, B={"c": 1.0}))
    assert shown.reference.shape == shown.image.shape == (200, 200)
    assert shown.image == pytest.approx(10)  # averaged, not picked


@pytest.mark.parametrize("size", [7, 8, 9])
def test_averaging_where_the_last_pixels_are_fewer(size):
    image = np.random.default_rng(0).random((size, 5))
    small = case_slices._shrink(image, 3)
    edges = [0, 3, 6, size] if size > 6 else [0, 3, size]
    expected = [[image[a:b, c:d].mean() for c, d in ((0, 3), (3, 5))] for a, b in pairwise(edges)]
    assert small == pytest.approx(np.array(expected))


def test_voxels_with_the_ignore_label_do_not_count(tmp_path):
    folder = Folder(tmp_path, ignore=9)
    reference = cube(SHAPE, BOX)
    reference[:, :, 3] = 9
    trained = cube(SHAPE, BOX)
    trained[:, :, 3] = 2
    trained[10, 12, 8] = 0
    folder.write(reference=reference, A=cube(SHAPE, BOX), B=trained)
    ((shown,), _) = read(folder, table(A={"c": 0.9}, B={"c": 0.8}))
    assert shown.position.startswith("Axial slice 8 ")


def test_equal_segmentations_show_the_fullest_slice(folder):
    reference = cube(SHAPE, BOX)
    reference[:, :, 11] = 1
    folder.write(reference=reference, A=reference, B=reference)
    ((shown,), _) = read(folder, table(A={"c": 1.0}, B={"c": 1.0}))
    assert shown.position == "Axial slice 11 of 0 to 19, the one with most foreground."


def test_of_several_runs_the_one_nearest_to_their_mean(folder):
    runs = {"B1": 0.2, "B2": 0.6, "B3": 0.7}
    cases = pd.concat([table(A={"c": 0.9}), *(table(B={"c": value}).assign(run=run) for run, value in runs.items())])
    folder.write(A=cube(SHAPE, BOX), B2=cube(SHAPE, BOX, 2))
    ((shown,), left_out) = read(folder, cases)
    assert left_out == []
    assert [(one.trainer, one.run, one.dice) for one in shown.segmentations] == [("A", None, 0.9), ("B", "B2", 0.6)]
    assert shown.reasons[0] == "lowest Dice of all (B, 0.500)"


def test_labels_that_differ_most_are_named():
    values = {"u": 0.9, "v": 0.8, "w": 0.7, "x": 0.6, "y": np.nan}
    changed = {"u": 0.9, "v": 0.5, "w": 0.8, "x": 0.58, "y": 0.5}
    cases = frame(A={"c": values}, B={"c": changed})
    text = case_slices._changes(cases, ("A", "B"))
    assert (
        text == "Dice of the labels that differ most, A and B: v 0.800 and 0.500, w 0.700 and 0.800, x 0.600 and 0.580."
    )


@pytest.mark.parametrize("damage", ["missing", "truncated", "size", "image"])
def test_what_cannot_be_read_is_left_out_and_said(folder, damage):
    folder.write(A=cube(SHAPE, BOX), B=cube(SHAPE, BOX))
    path = folder.path / ("image.nii.gz" if damage == "image" else "B.nii.gz")
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), path)
    slices, (sentence,) = read(folder, table(A={"c": 0.9}, B={"c": 0.8}))
    assert slices == []
    assert (
        sentence.startswith("D: 1 of 1 picture left out, for files that cannot be read: c (") and "\n" not in sentence
    )
    if damage != "truncated":
        assert str(path) in sentence


def test_many_datasets_share_the_pictures(folder, monkeypatch):
    monkeypatch.setattr(case_slices, "MOST_PICTURES", 4)
    folder.write(A=cube(SHAPE, BOX), B=cube(SHAPE, BOX))
    one = table(A={"a": 0.1, "b": 0.5, "c": 0.5}, B={"a": 0.1, "b": 0.4, "c": 0.6})
    slices, left_out = read(folder, pd.concat([one, one.assign(dataset="E")], ignore_index=True))
    assert [(shown.dataset, shown.case) for shown in slices] == [("D", "a"), ("D", "b"), ("E", "a"), ("E", "b")]
    assert left_out[0] == "D: 2 of 3 pictures drawn, to keep the page small."
