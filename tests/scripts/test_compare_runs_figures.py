"""The figures of compare_runs.py: what is drawn, against the numbers that were written."""

import numpy as np
import pytest
from comparison_helpers import write_run
from run_comparison import figures
from run_comparison.runs import read_runs
from run_comparison.settings import name_settings
from run_comparison.statistics import compare

CPR = {"optimizer": "adamcpr"}
ADAMW = {"optimizer": "adamw"}


def compared(folders, **options):
    runs = read_runs(folders)
    names = name_settings(runs)
    metric = "val_perplexity" if runs[0].script == "train_gpt2" else "val_accuracy"
    return compare(runs, names, metric, **options), runs, names


def lines(ax, **properties):
    """The (steps, values) of the axis' lines that have these properties."""
    chosen = [line for line in ax.lines if all(getattr(line, f"get_{k}")() == v for k, v in properties.items())]
    return [tuple(map(tuple, np.transpose(line.get_xydata()))) for line in chosen]


def test_curves_have_seeds_means_and_the_baselines_last_value(tmp_path):
    folders = [
        write_run(tmp_path / "a", [90, 40, 20], seed=1, **ADAMW),
        write_run(tmp_path / "b", [80, 30, 22], seed=2, **ADAMW),
        write_run(tmp_path / "c", [85, 30, 15], seed=1, **CPR),
        write_run(tmp_path / "d", [85, 1], seed=2, max_steps=30, **CPR),  # unfinished: not drawn
    ]
    comparison, runs, names = compared(folders)
    figure = figures.curves(comparison, runs, names, reach=17)
    ax = figure.axes[0]
    steps = (10, 20, 30)
    assert lines(ax, color="0.35", alpha=0.5) == [(steps, (90, 40, 20)), (steps, (80, 30, 22))]
    assert lines(ax, color="0.35", alpha=None) == [(steps, (85, 35, 21))]
    assert lines(ax, color="#0072B2") == [(steps, (85, 30, 15))]
    assert lines(ax, color="black") == [((0, 1), (21, 21)), ((0, 1), (17, 17))]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    expected = ["adamw wd 0.1 (n = 2)", "adamcpr Kappa-IP (n = 1)", "last value of the baseline", "17, to be reached"]
    assert texts == expected


def test_the_mean_is_drawn_where_all_seeds_were_evaluated(tmp_path):
    folders = [
        write_run(tmp_path / "a", [90, 40, 50, 20], seed=1, **ADAMW),
        write_run(tmp_path / "b", [80, 30, 40, 22], seed=2, **ADAMW),
        write_run(tmp_path / "c", [50, 27], every=20, seed=3, **ADAMW),
    ]
    comparison, runs, names = compared(folders)
    ax = figures.curves(comparison, runs, names, None).axes[0]
    assert lines(ax, color="0.35", alpha=None) == [((20, 40), (40, 23))]


def test_training_accuracy_is_dotted(tmp_path):
    folder = write_run(tmp_path / "a", [0.1, 0.2], script="train_grokking", **CPR)
    comparison, runs, names = compared([folder])
    ax = figures.curves(comparison, runs, names, None).axes[0]
    assert lines(ax, linestyle=":") == [((10, 20), (0.5, 0.75))]
    assert ax.get_ylabel() == "val_accuracy (dotted: train_accuracy)"


@pytest.mark.parametrize(
    ("values", "scale", "limits", "cut"),
    [
        ([5000, 30, 25, 22, 21, 20], "linear", (19.5, 30.5), True),  # step 10 of 60 is before a fifth of the steps
        ([39, 30, 25, 22, 21, 20], "linear", (20 - 0.95, 39 + 0.95), False),  # but it may be seen where there is room
        ([5000, 2000, 1000, 22, 21, 20], "log", (20 / 1.2, 2000 * 1.2), True),
        ([20, 20, 20], "linear", (19, 21), False),
        (["nan", "nan"], "linear", (-0.055, 0.055), False),  # matplotlib's own
    ],
)
def test_the_axis_fits_what_comes_after_the_start(tmp_path, values, scale, limits, cut):
    comparison, runs, names = compared([write_run(tmp_path / "a", values, **CPR)])
    ax = figures.curves(comparison, runs, names, None).axes[0]
    assert (ax.get_yscale(), ax.get_ylim()) == (scale, pytest.approx(limits))
    assert ("outside" in ax.get_xlabel()) == cut


def test_a_color_and_style_for_each_of_many_settings(tmp_path):
    folders = [write_run(tmp_path / str(n), [30, 20], optimizer="adamw", weight_decay=n / 100) for n in range(1, 20)]
    comparison, runs, names = compared(folders)
    ax = figures.curves(comparison, runs, names, None).axes[0]
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in ax.lines if line.get_color() != "black"}
    assert len(looks) == 19


TRACE = [
    f"{step},{tensor},{reg},{kappa},{lagmul}"
    for step, reg, kappa, lagmul in ((10, 1, "inf", 0), (20, 3, "inf", 0), (30, 4, 3.5, 0.25))
    for tensor, reg in (("w1", reg), ("w2", 10 * reg))
]


def test_constraints_show_reg_bound_slope_multiplier_and_loss(tmp_path):
    folders = [
        write_run(tmp_path / "a", [40, 30, 20], **ADAMW),
        write_run(tmp_path / "b", [40, 30, 20], **CPR, trace=TRACE),
        write_run(tmp_path / "c", [40, 30, 20], **CPR, seed=7, trace=["10,w3,1,1,1"]),
    ]
    _, runs, names = compared(folders)
    figure = figures.constraints(runs, names, None)
    assert figure.get_suptitle() == "adamcpr Kappa-IP, seed 1234"
    axes = np.reshape(figure.axes, (4, 2))
    assert [ax.get_title() for ax in axes[0]] == ["w1", "w2"]
    reg, kappa = lines(axes[0, 1])
    assert reg == ((10, 20, 30), (10, 30, 40))
    np.testing.assert_equal(kappa, ((10, 20, 30), (np.nan, np.nan, 3.5)))
    slope, zero = lines(axes[1, 0])
    assert slope == ((10, 20, 30), pytest.approx((0.2, 0.15, 0.1)))  # (3 - 1) / 10, (4 - 1) / 20, (4 - 3) / 10
    assert zero[1] == (0, 0)
    assert lines(axes[2, 0]) == [((10, 20, 30), (0, 0, 0.25))]
    assert lines(axes[3, 0])[0] == ((5, 10, 15, 20, 25, 30), (2.5, 2, 2.5, 1, 2.5, pytest.approx(2 / 3)))
    chosen = figures.constraints(runs, names, ["w2"])
    assert [ax.get_title() for ax in chosen.axes] == ["w2", "", "", ""]


def test_constraints_are_of_tensors_spread_over_the_network(tmp_path):
    trace = [f"10,w{number},1,2,0" for number in range(10)]
    _, runs, names = compared([write_run(tmp_path / "a", [20], **CPR, trace=trace)])
    figure = figures.constraints(runs, names, None)
    assert [ax.get_title() for ax in figure.axes[:4]] == ["w0", "w3", "w6", "w9"]


def test_the_heatmap_has_a_panel_a_rule_and_the_means_in_its_cells(tmp_path):
    folders = []
    for lr, seed in ((0.1, 1), (0.1, 2), (0.01, 1)):
        name = f"{lr}-{seed}"
        folders += [
            write_run(tmp_path / f"a{name}", [30, 20 + lr + seed], lr=lr, seed=seed, **ADAMW, weight_decay=1),
            write_run(tmp_path / f"b{name}", [30, 30 + lr + seed], lr=lr, seed=seed, **ADAMW, weight_decay=0.1),
            write_run(tmp_path / f"c{name}", [30, 40 + lr + seed], lr=lr, seed=seed, **CPR),
        ]
    folders.append(
        write_run(tmp_path / "ws", [30, 50], lr=0.01, **CPR, kappa_init_method="warm_start", kappa_init_param=4)
    )
    comparison, runs, names = compared(folders)
    *panels, _ = figures.heatmap(comparison, runs, names).axes
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["1", "0.1"]  # from top to bottom
    found = {}
    for ax in panels:
        rates = [text.get_text() for text in ax.get_xticklabels()]
        strengths = [text.get_text() for text in ax.get_yticklabels()]
        cells = {(strengths[int(t.get_position()[1])], rates[int(t.get_position()[0])]): t.get_text() for t in ax.texts}
        found[ax.get_title(), ax.get_ylabel()] = cells
    assert found == {
        ("adamw", "weight decay"): {
            ("1", "0.01"): "21.010", ("1", "0.1"): "21.600", ("0.1", "0.01"): "31.010", ("0.1", "0.1"): "31.600",
        },
        ("adamcpr Kappa-IP", ""): {("", "0.01"): "41.010", ("", "0.1"): "41.600"},
        ("adamcpr Kappa-WS", "steps of the warm start"): {("4", "0.01"): "50.000"},
    }  # fmt: skip


def test_a_heatmap_needs_one_setting_a_cell(tmp_path):
    grid = [(lr, wd) for lr in (0.1, 0.2) for wd in (1, 2)]
    folders = [write_run(tmp_path / f"{lr}-{wd}", [30, 20], lr=lr, **ADAMW, weight_decay=wd) for lr, wd in grid]
    comparison, runs, names = compared(folders)
    assert figures.heatmap(comparison, runs, names)
    folders.append(write_run(tmp_path / "other", [30, 20], lr=0.1, **ADAMW, weight_decay=1, dropout=0))
    comparison, runs, names = compared(folders)
    with pytest.raises(ValueError, match=r"one setting a cell, but adamw wd 1, lr 0\.1, dropout 0\.1 and adamw"):
        figures.heatmap(comparison, runs, names)
    comparison, runs, names = compared(folders[:2])  # one learning rate
    with pytest.raises(ValueError, match="the runs are no grid"):
        figures.heatmap(comparison, runs, names)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("last", ["nan", "inf", "-inf", "0", "1e-320", "1e308", "-1e308"])
@pytest.mark.parametrize("first", ["nan", "1e-320", "1e308", "5"])
def test_curves_of_values_that_matplotlib_cannot_draw(tmp_path, first, last):
    folders = [
        write_run(tmp_path / "a", [first, last], **ADAMW),
        write_run(tmp_path / "b", [first, last], **CPR),
        write_run(tmp_path / "c", [4, 3], lr=0.5, **CPR),
    ]
    comparison, runs, names = compared(folders)
    figures.curves(comparison, runs, names, 1e200).savefig(tmp_path / "curves.png")
