"""The trace file and its figure."""

import csv
import errno
import math

import numpy as np
import pytest

from nnunet_cpr.optim import Constraint
from nnunet_cpr.training import trace as module
from nnunet_cpr.training.trace import Trace, draw, read_trace


def constraints(reg, kappa=math.inf, lagmul=0.0):
    return [Constraint(name, 4, reg * (i + 1), kappa, lagmul, False) for i, name in enumerate(("a.weight", "b.weight"))]


def read(folder):
    with (folder / "cpr_trace.csv").open() as file:
        return list(csv.reader(file))


def test_one_row_per_tensor_and_epoch(tmp_path):
    trace = Trace(tmp_path, 0)
    trace.add(0, 5, constraints(2.0))
    trace.add(1, 10, constraints(1.0, 1.5, float(np.float32(0.1))))
    trace.save()
    assert read(tmp_path) == [
        ["epoch", "step", "tensor", "reg", "kappa", "lagmul"],
        ["0", "5", "a.weight", "2", "inf", "0"],
        ["0", "5", "b.weight", "4", "inf", "0"],
        ["1", "10", "a.weight", "1", "1.5", "0.100000001"],
        ["1", "10", "b.weight", "2", "1.5", "0.100000001"],
    ]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["cpr_progress.png", "cpr_trace.csv"]


def test_a_resumed_training_drops_the_epochs_it_does_again(tmp_path):
    first = Trace(tmp_path, 0)
    for epoch in range(3):
        first.add(epoch, epoch + 1, constraints(1.0 + epoch))
    first.save()
    resumed = Trace(tmp_path, 2)
    resumed.add(2, 3, constraints(9.0))
    resumed.save()
    rows = read_trace(tmp_path / "cpr_trace.csv")
    assert [r.epoch for r in rows] == [0, 0, 1, 1, 2, 2]
    assert [r.reg for r in rows] == [1, 2, 2, 4, 9, 18]
    assert Trace(tmp_path, 0).rows == []


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    trace = Trace(tmp_path, 0)
    trace.add(0, 5, constraints(2.0))
    trace.save()
    before = read(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trace.add(1, 10, constraints(3.0))
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        trace.save()
    assert read(tmp_path) == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["cpr_progress.png", "cpr_trace.csv"]


def test_the_figure_shows_what_the_rows_say():
    rows = []
    for epoch in range(4):
        for i, name in enumerate(("a", "b", "c")):
            rows.append(
                module.Row(epoch, epoch, name, 2.0 + i, 4.0 if epoch >= 2 else math.inf, 0.1 * i * (epoch >= 2))
            )
    lagmul, ratio, reg = draw(rows).axes[:3]
    for ax, expected in (
        (lagmul, [0, 0, 0.1, 0.1]),
        (ratio, [math.nan, math.nan, 0.75, 0.75]),
        (reg, [3, 3, 3, 3]),
    ):
        lines = [line for line in ax.lines if len(line.get_xdata()) == 4]
        assert len(lines) == 4  # three tensors and the median, which is tensor b
        np.testing.assert_allclose(lines[3].get_ydata(), expected)
        np.testing.assert_allclose(lines[1].get_ydata(), expected)
        assert list(lines[0].get_xdata()) == [0, 1, 2, 3]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(
    "numbers",
    [
        (1.0, math.inf, 0.0),
        (1.0, 1.0, 1e-9),
        (math.nan, math.inf, math.nan),
        (0.0, 0.0, 0.0),
        (-1.0, -1.0, -math.inf),
        (math.inf, math.inf, math.inf),
        (1e308, 1e-320, 1e308),
        (1e-320, 1e308, 1e-320),
    ],
)
def test_the_figure_stands_odd_numbers(tmp_path, epochs, numbers):
    rows = [module.Row(e, e, name, *numbers) for e in range(epochs) for name in ("a", "b")]
    draw(rows).savefig(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("reg", "lagmul"), [(1e38, 8e23), (math.inf, 8e23), (math.inf, 1e300), (math.inf, math.inf), (math.nan, math.nan)]
)
def test_a_diverging_training_is_drawn(tmp_path, reg, lagmul):
    trace = Trace(tmp_path, 0)
    for epoch, values in enumerate([(5.0, 0.0), (9.8, 1.2), (1.4e6, 189.0), (reg, lagmul)]):
        trace.add(epoch, epoch + 1, constraints(values[0], 5.0, values[1]))
    trace.save()
    assert (tmp_path / "cpr_progress.png").stat().st_size > 0
    assert len(read(tmp_path)) == 9
    assert draw(trace.rows).axes[0].lines[0].get_ydata()[:3].tolist() == [0.0, 1.2, 189.0]


def test_tensors_that_are_frozen_at_times_keep_the_networks_order(tmp_path):
    """As gradual unfreezing lists them: `c`, then `b` before it, then all, and `d` frozen again."""
    trace = Trace(tmp_path, 0)
    for epoch, names in enumerate(["", "c", "bc", "abcd", "abc"]):
        trace.add(epoch, epoch + 1, [Constraint(name, 4, ord(name), math.inf, 0.0, False) for name in names])
    trace.save()
    lines = draw(read_trace(tmp_path / "cpr_trace.csv")).axes[2].lines[:-1]  # the last one is the median
    seen = [[int(y) for y in line.get_ydata() if math.isfinite(y)] for line in lines]
    assert seen == [[ord(name)] * epochs for name, epochs in zip("abcd", (2, 3, 4, 1), strict=True)]


def test_a_training_in_which_all_is_frozen_has_an_empty_trace(tmp_path):
    trace = Trace(tmp_path, 0)
    trace.add(0, 1, [])
    trace.save()
    assert read_trace(tmp_path / "cpr_trace.csv") == []
    assert (tmp_path / "cpr_progress.png").is_file()
