"""The files of a run: what a broken-off run leaves behind, and the figure."""

import json

import pytest
from harness.records import Table, draw_curves, read_table, write_start


@pytest.mark.parametrize("torn", ["", "2", "20,0.1", "1"])
def test_rows_after_the_checkpoint_and_a_torn_line_are_dropped(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,val\n10,1.5,\n20,1.25,0.5\n30,1,\n" + torn)
    table = Table(path, ["loss", "val"], last_step=20)
    table.begin()
    table.add([{"step": 30, "loss": 1 / 3}, {"step": 40, "loss": 2, "val": 1e-12}])
    expected = "step,loss,val\n10,1.5,\n20,1.25,0.5\n30,0.333333333,\n40,2,1e-12\n"
    assert path.read_text() == expected
    assert read_table(path) == {
        "loss": [(10, 1.5), (20, 1.25), (30, 0.333333333), (40, 2)],
        "val": [(20, 0.5), (40, 1e-12)],
    }


def test_an_unknown_column_is_an_error(tmp_path):
    table = Table(tmp_path / "m.csv", ["loss"], 0)
    table.begin()
    with pytest.raises(ValueError, match="los"):
        table.add([{"step": 1, "los": 2}])


def test_a_continued_run_notes_both_starts(tmp_path):
    path = tmp_path / "config.json"
    write_start(path, "train_x", {"lr": 1}, {"step": 0})
    write_start(path, "train_x", {"lr": 1}, {"step": 7})
    assert json.loads(path.read_text()) == {
        "script": "train_x", "settings": {"lr": 1}, "starts": [{"step": 0}, {"step": 7}]
    }  # fmt: skip


def test_the_figure_has_a_panel_for_losses_and_one_for_each_metric(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self) or open(_[0], "w").close())
    (tmp_path / "metrics.csv").write_text(
        "step,train_loss,lr,val_loss,val_accuracy,pairs_per_second,memory_mb\n1,3,0.1,,,5,6\n2,2,0.2,2.5,0.75,5,6\n"
    )
    draw_curves(tmp_path, "title")
    panels = {ax.get_ylabel(): {tuple(map(tuple, line.get_xydata())) for line in ax.lines} for ax in drawn[0].axes}
    assert panels == {
        "loss": {((1, 3), (2, 2)), ((2, 2.5),)}, "lr": {((1, 0.1), (2, 0.2))}, "val_accuracy": {((2, 0.75),)}
    }  # fmt: skip
