"""CPR's constraints over tensors and trainings, against plain NumPy."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nnunet_cpr.evaluation.figures.constraints import draw_constraints
from nnunet_cpr.evaluation.figures.drawing import save_figure
from nnunet_cpr.evaluation.results import TRACE_COLUMNS

TENSORS = 12


def traces(trainer="CPR", run="CPR", fold="0", epochs=6, seed=0, dataset="D", bounded_from=2):
    """A trace whose tensors get their bounds in epoch `bounded_from`, but for the first one."""
    rng = np.random.default_rng(seed)
    rows = []
    for epoch in range(epochs):
        for tensor in range(TENSORS):
            bounded = tensor > 0 and epoch >= bounded_from
            lagmul = rng.choice([0.0, rng.uniform(1e-6, 1e-3)]) if bounded else 0.0
            kappa = rng.uniform(5, 9) if bounded else math.inf
            names = (dataset, trainer, run, fold, f"t{tensor}")
            rows.append((*names, epoch, 250 * (epoch + 1), rng.uniform(1, 20), kappa, lagmul))
    return pd.DataFrame(rows, columns=TRACE_COLUMNS)


def drawn(*frames, trainers=("SGD", "CPR")):
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.astype(dict.fromkeys(TRACE_COLUMNS[:5], "category"))
    datasets, others = list(rows["dataset"].unique()), [name for name in trainers if name != "SGD"]
    results = SimpleNamespace(traces=rows, trainers=list(trainers), baseline="SGD", datasets=datasets, others=others)
    return list(draw_constraints(results))


def array(frame, column):
    """Of shape (tensors of all trainings, epochs)."""
    trainings = [part[column].to_numpy() for _, part in frame.groupby(["run", "fold"])]
    return np.concatenate([values.reshape(-1, TENSORS).T for values in trainings])


def edges(ax, number):
    found = {}
    for x, y in ax.collections[number].get_paths()[0].vertices:
        found.setdefault(x, []).append(y)
    return np.array([(min(found[x]), max(found[x])) for x in sorted(found)]).T


def test_medians_bands_and_shares_over_all_trainings():
    frames = [traces(fold=str(fold), seed=fold) for fold in range(3)]
    (drawing,) = drawn(*frames)
    frame = pd.concat(frames)
    lagmul, reg, kappa = (array(frame, column) for column in ("lagmul", "reg", "kappa"))
    ratio = np.where(np.isfinite(kappa), reg / kappa, np.nan)
    for ax, values in zip(drawing.figure.axes[:3], (lagmul, ratio, reg), strict=True):
        known = np.isfinite(values).any(axis=0)
        for number, (low, high) in enumerate([(5, 95), (25, 75)]):
            expected = np.nanpercentile(values[:, known], [low, high], axis=0)
            assert edges(ax, number)[:, -known.sum() :] == pytest.approx(expected)
        *single, median = [line for line in ax.lines if len(line.get_xdata()) == 6]
        assert median.get_ydata()[known] == pytest.approx(np.nanmedian(values[:, known], axis=0))
        assert np.isnan(median.get_ydata()[~known]).all()
        medians = [np.nanmedian(part[:, known], axis=0) for part in np.split(values, 3)]
        shown = np.array(sorted(line.get_ydata()[known].tolist() for line in single))
        assert shown == pytest.approx(np.array(sorted(median.tolist() for median in medians)))
    bounded, active = drawing.figure.axes[3].lines
    assert bounded.get_ydata() == pytest.approx(np.isfinite(kappa).mean(axis=0))
    assert active.get_ydata() == pytest.approx((lagmul > 0).mean(axis=0))
    assert bounded.get_xdata().tolist() == [250 * (e + 1) for e in range(6)]
    assert "Trainings: CPR 3." in drawing.text


def test_long_traces_are_averaged_per_tensor():
    frame = traces(epochs=1000)
    (drawing,) = drawn(frame)
    reg = array(frame, "reg").reshape(TENSORS, 200, 5).mean(axis=2)
    line = drawing.figure.axes[2].lines[-1]
    assert line.get_ydata() == pytest.approx(np.median(reg, axis=0))
    assert line.get_xdata().tolist() == [1250 * (i + 1) for i in range(200)]
    assert "Each point is the mean over 5 epochs." in drawing.text


def test_trainers_stand_side_by_side_three_at_most_and_share_their_scales(tmp_path):
    names = [f"CPR{i}" for i in range(4)]
    drawings = drawn(*(traces(name, name, seed=i) for i, name in enumerate(names)), trainers=("SGD", *names))
    assert [len(drawing.figure.axes) for drawing in drawings] == [12, 4]
    assert [drawing.name for drawing in drawings] == ["constraints-D-1", "constraints-D-2"]
    axes = np.reshape(drawings[0].figure.axes, (4, 3))
    assert [ax.get_title().strip() for ax in axes[0]] == names[:3]
    for row in axes:
        assert len({ax.get_ylim() for ax in row}) == 1
    save_figure(drawings[0].figure, tmp_path / "constraints.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_constraint_that_never_acts(tmp_path, epochs):
    (drawing,) = drawn(traces(epochs=epochs, bounded_from=99))
    save_figure(drawing.figure, tmp_path / "constraints.png")
    assert drawing.figure.axes[3].lines[0].get_ydata().tolist() == [0] * epochs
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == ["no multiplier is active yet"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("epochs", [1, 3])
def test_nothing_that_a_logarithm_has(tmp_path, value, epochs):
    (drawing,) = drawn(traces(epochs=epochs).assign(reg=value))
    save_figure(drawing.figure, tmp_path / "constraints.png")
    assert [ax.get_yscale() for ax in drawing.figure.axes] == ["symlog" if epochs > 2 else "linear"] + ["linear"] * 3


@pytest.mark.filterwarnings("error")
def test_a_trainer_that_diverged_beside_one_that_did_not(tmp_path):
    bad, good = traces("bad", "bad").assign(reg=math.nan), traces("good", "good")
    for order in (["bad", "good"], ["good", "bad"]):
        (drawing,) = drawn(bad, good, trainers=("SGD", *order))
        save_figure(drawing.figure, tmp_path / "constraints.png")
        assert [ax.get_yscale() for ax in drawing.figure.axes[4:6]] == ["log", "log"]
