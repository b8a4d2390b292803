"""Contours of reference and segmentations over a slice."""

import base64
import io
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from nnunet_cpr.evaluation.figures.contours import _once, contour_picture, draw_slices
from nnunet_cpr.evaluation.figures.drawing import save_both
from nnunet_cpr.evaluation.figures.slices import find_contours
from nnunet_cpr.evaluation.results import CaseSlice, SlicedSegmentation

LABELS = {"left": 1, "right": 2}


def plane(left=np.s_[2:8, 2:5], right=np.s_[2:8, 5:9]):
    array = np.zeros((10, 12), dtype=np.uint8)
    array[left], array[right] = 1, 2
    return array


def case_slice(**given):
    usual = {
        "dataset": "D",
        "case": "c_1",
        "reasons": ["lost most with B (−0.100)", "lowest Dice of all (B, 0.800)"],
        "position": "Axial slice 3 of 0 to 9, where the two segmentations differ most.",
        "changes": "Dice, A and B: left 0.9 and 0.8.",
        "image": np.random.default_rng(0).normal(size=(10, 12)),
        "reference": plane(),
        "segmentations": [
            SlicedSegmentation("A", None, 0.9, plane(left=np.s_[3:8, 2:5])),
            SlicedSegmentation("B", None, float("nan"), plane(right=np.s_[2:8, 5:11])),
        ],
        "labels": LABELS,
        "aspect": 2.0,
    }
    return CaseSlice(**{**usual, **given})


def drawn(*slices):
    datasets = list(dict.fromkeys(one.dataset for one in slices))
    return list(draw_slices(SimpleNamespace(slices=list(slices), datasets=datasets)))


def extents(collection):
    """(lowest column, highest column, lowest row, highest row) of all of a collection's lines."""
    points = np.concatenate([path.vertices for path in collection.get_paths()])
    return (*points[:, 0][[points[:, 0].argmin(), points[:, 0].argmax()]], points[:, 1].min(), points[:, 1].max())


def test_both_contours_are_drawn_over_the_image_in_each_panel():
    shown = case_slice()
    (drawing,) = drawn(shown)
    left, right = drawing.figure.axes
    assert [ax.get_title() for ax in (left, right)] == ["A\nDice 0.900", "B\nDice –"]
    for ax, one in zip((left, right), shown.segmentations, strict=True):
        assert (ax.images[0].get_array() == shown.image).all() and ax.get_aspect() == 2
        casing, segmentation, dark, light = ax.collections
        rows, columns = np.nonzero(one.plane)
        expected = (columns.min() - 0.5, columns.max() + 0.5, rows.min() - 0.5, rows.max() + 0.5)
        assert extents(segmentation) == extents(casing) == expected
        assert extents(dark) == extents(light) == (1.5, 8.5, 1.5, 7.5)  # the reference's, in both panels
        drawn_once = [frozenset(map(tuple, pair)) for path in light.get_paths() for pair in pairwise(path.vertices)]
        assert len(drawn_once) == len(set(drawn_once))
        solid, dashed = segmentation.get_linestyles()[0][1], light.get_linestyles()[0][1]
        assert solid is None and len(dashed) == 2
        assert len(np.unique(segmentation.get_colors(), axis=0)) == 2  # a color a label
    assert drawing.title == "D, c_1: lost most with B (−0.100); lowest Dice of all (B, 0.800)"
    for sentence in (shown.position, shown.changes, "dashed lines: the reference."):
        assert sentence in drawing.text


def test_the_legend_names_the_labels_that_are_there():
    labels = {**LABELS, "nowhere": 3, "_$region$": (1, 2)}
    (drawing,) = drawn(case_slice(labels=labels))
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert words == ["left", "right", r"_\$region\$", "reference"]


def test_regions_are_drawn_as_the_voxels_that_belong_to_them():
    (drawing,) = drawn(case_slice(labels={"whole": (1, 2), "right": 2}, segmentations=case_slice().segmentations[:1]))
    (ax,) = drawing.figure.axes
    outer, inner = (path.vertices for path in ax.collections[1].get_paths())
    assert (outer[:, 0].min(), outer[:, 0].max()) == (1.5, 8.5)
    assert (inner[:, 0].min(), inner[:, 0].max()) == (4.5, 8.5)


def test_without_an_image_the_reference_is_filled():
    (drawing,) = drawn(case_slice(image=None))
    for ax in drawing.figure.axes:
        assert (ax.images[0].get_array() == (plane() > 0)).all()
    assert "filled in gray, because there is no image" in drawing.text


def test_several_runs_are_named():
    segmentations = [SlicedSegmentation("A", "A_seed1", 0.9, plane()), SlicedSegmentation("B", None, 0.8, plane())]
    (drawing,) = drawn(case_slice(segmentations=segmentations))
    assert drawing.text.endswith("those with a Dice near the mean are shown: A_seed1 (A).")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("image", [np.zeros((10, 12)), None])
def test_empty_masks_and_a_flat_image(tmp_path, image):
    nothing = np.zeros((10, 12), dtype=np.uint8)
    segmentations = [SlicedSegmentation(name, None, 0.0, nothing) for name in "AB"]
    (drawing,) = drawn(case_slice(image=image, reference=nothing, segmentations=segmentations))
    save_both(drawing, tmp_path)


def test_a_border_between_two_labels_is_drawn_once():
    contours = find_contours(plane(), LABELS)
    kept = _once(contours)

    def segments(lines):
        return [frozenset(map(tuple, pair)) for line in lines for pair in pairwise(line)]

    before = [segment for lines in contours for segment in segments(lines)]
    after = [segment for lines in kept for segment in segments(lines)]
    assert len(before) > len(set(before))
    assert len(after) == len(set(after)) and set(after) == set(before)


def test_files_are_named_by_dataset_and_number():
    drawings = drawn(case_slice(), case_slice(case="c_2"), case_slice(dataset="E"))
    assert [drawing.name for drawing in drawings] == ["slice-D-1", "slice-D-2", "slice-E-1"]


def test_the_svg_holds_the_images_pixels_and_little_more(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (256, 256))
    nothing = np.zeros((256, 256), np.uint8)
    segmentations = [SlicedSegmentation(name, None, 0.5, nothing) for name in "AB"]
    (drawing,) = drawn(case_slice(image=gray, reference=nothing, segmentations=segmentations, aspect=1.0))
    svg = save_both(drawing, tmp_path)
    assert svg == (tmp_path / "slice-D-1.svg").read_text(encoding="utf-8")
    first, second = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    assert first == second and len(svg) < 2 * 4 / 3 * gray.size + 20_000  # a byte a pixel
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
    assert pixels.ndim == 2 and np.corrcoef(pixels.ravel(), gray.ravel())[0, 1] > 0.999


def test_titles_do_not_reach_beyond_the_figure():
    figure = contour_picture(case_slice())
    figure.savefig(io.BytesIO(), dpi=figure.dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        box = ax.title.get_window_extent(renderer)
        assert box.y1 <= figure.bbox.y1 and box.y0 >= ax.get_window_extent(renderer).y1
