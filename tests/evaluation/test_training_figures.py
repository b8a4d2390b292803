"""Training curves: a line a trainer, the mean of its trainings, and their range."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nnunet_cpr.evaluation.figures.drawing import save_figure
from nnunet_cpr.evaluation.figures.training import Curve, draw_training, training_curves
from nnunet_cpr.evaluation.results import EPOCH_COLUMNS


def epochs(trainer="T", run="T", fold="0", dice=(), steps=250, dataset="D"):
    """Epochs whose losses follow from the pseudo Dice."""
    rows = [
        (dataset, trainer, run, fold, e, steps * (e + 1), 1 - value, 2 - value, value, 10.0)
        for e, value in enumerate(dice)
    ]
    return pd.DataFrame(rows, columns=EPOCH_COLUMNS)


def drawn(*frames, trainers=("T",), baseline="T"):
    frame = pd.concat(frames, ignore_index=True)
    datasets, others = list(frame["dataset"].unique()), [name for name in trainers if name != baseline]
    results = SimpleNamespace(
        epochs=frame, trainers=list(trainers), baseline=baseline, datasets=datasets, others=others
    )
    return list(draw_training(results))


def band(ax, number=0):
    """Lower and upper edge of a filled band by x."""
    points = ax.collections[number].get_paths()[0].vertices
    edges = {}
    for x, y in points:
        edges.setdefault(x, []).append(y)
    return {x: (min(ys), max(ys)) for x, ys in edges.items()}


def test_mean_and_range_over_folds_and_repeats():
    frames = [
        epochs(dice=[0.1, 0.5], run="T_seed0", fold="0"),
        epochs(dice=[0.3, 0.6], run="T_seed0", fold="1"),
        epochs(dice=[0.8, 0.7], run="T_seed1", fold="0"),
    ]
    (drawing,) = drawn(*frames)
    train, validation, dice = drawing.figure.axes
    assert dice.lines[0].get_xdata().tolist() == [250, 500]
    assert dice.lines[0].get_ydata() == pytest.approx([0.4, 0.6])
    assert train.lines[0].get_ydata() == pytest.approx([0.6, 0.4])
    assert validation.lines[0].get_ydata() == pytest.approx([1.6, 1.4])
    assert band(dice) == {250: pytest.approx((0.1, 0.8)), 500: pytest.approx((0.5, 0.7))}
    assert band(train) == {250: pytest.approx((0.2, 0.9)), 500: pytest.approx((0.3, 0.5))}
    assert drawing.name == "curves-D" and "range" in drawing.text and "Trainings: T 3." in drawing.text
    assert "Each point" not in drawing.text


def test_trainers_of_other_lengths_share_the_axis_of_steps(tmp_path):
    frames = [epochs(dice=[0.1, 0.2, 0.3]), epochs("U", "U", dice=[0.5], steps=100)]
    (drawing,) = drawn(*frames, trainers=("U", "T"), baseline="U")
    first, second = drawing.figure.axes[2].lines
    assert (first.get_xdata().tolist(), second.get_xdata().tolist()) == ([100], [250, 500, 750])
    assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
    assert not drawing.figure.axes[2].collections  # one training each has no range
    save_figure(drawing.figure, tmp_path / "curves.png")


def test_long_trainings_are_averaged_before_the_range_is_taken():
    rng = np.random.default_rng(0)
    both = rng.uniform(0.5, 0.9, (2, 1000))
    (drawing,) = drawn(*(epochs(dice=values, fold=str(fold)) for fold, values in enumerate(both)))
    blocks = both.reshape(2, 200, 5).mean(axis=2)
    dice = drawing.figure.axes[2]
    assert dice.lines[0].get_xdata().tolist() == [1250 * (i + 1) for i in range(200)]
    assert dice.lines[0].get_ydata() == pytest.approx(blocks.mean(axis=0))
    edges = [band(dice)[1250 * (i + 1)] for i in range(200)]
    assert np.array(edges) == pytest.approx(np.stack([blocks.min(axis=0), blocks.max(axis=0)], axis=1))
    assert "Each point is the mean over 5 epochs." in drawing.text


def test_a_figure_a_dataset():
    drawings = drawn(epochs(dice=[0.1]), epochs(dice=[0.2], dataset="E"))
    assert [drawing.title for drawing in drawings] == ["D: training curves", "E: training curves"]
    assert [d.figure.axes[2].lines[0].get_ydata().tolist() for d in drawings] == [[0.1], [0.2]]


@pytest.mark.filterwarnings("error")
def test_values_that_lack_leave_gaps(tmp_path):
    frame = epochs(dice=[0.1, 0.2, 0.3])
    frame.loc[1, ["train_loss", "pseudo_dice"]] = np.nan
    frame["validation_loss"] = np.nan
    (drawing,) = drawn(frame)
    assert np.isnan(drawing.figure.axes[2].lines[0].get_ydata()).tolist() == [False, True, False]
    save_figure(drawing.figure, tmp_path / "curves.png")


def test_the_warm_start_is_marked_and_curves_are_named():
    curves = [Curve(epochs(dice=[0.1, 0.4], steps=25), "0.5", "o", name) for name in ("weight decay", "CPR")]
    figure = training_curves(curves, warm_start=12)
    for ax in figure.axes:
        assert ax.lines[-1].get_xdata() == [12, 12]
    words = {text.get_text() for text in figure.axes[2].get_legend().get_texts()}
    assert words == {"weight decay", "CPR", "CPR's bounds are set"}


@pytest.mark.parametrize("count", [3, 30])
def test_many_trainers_can_be_told_apart_and_the_legend_covers_no_axes(count):
    names = [f"nnUNetTrainerCPR_ws{number}" for number in range(count)]
    (drawing,) = drawn(*(epochs(name, name, dice=[0.1, 0.2]) for name in names), trainers=names, baseline=names[0])
    lines = drawing.figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == count
    drawing.figure.draw_without_rendering()  # lays it out
    legend, heights = drawing.figure.legends[0], [ax.get_position().height for ax in drawing.figure.axes]
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawing.figure.bbox.width
    assert all(box.y1 <= ax.get_tightbbox().y0 for ax in drawing.figure.axes)
    assert min(heights) * drawing.figure.get_figheight() > 2  # inches
