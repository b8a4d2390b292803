"""--log-to: TensorBoard and W&B beside the tables of a run, read back and compared with these."""

import csv
import math
import sys

import numpy as np
import pytest
from harness.parsing import parse, run_script
from harness.tracker import Tracker
from reading_logs import read_tensorboard, read_wandb
from script_helpers import losses, stop_after
from train_grokking import GrokkingSettings, train

SMALL = ["--device", "cpu", "--modulus", "7", "--width", "16", "--hidden", "32", "--train-share", "0.9"]
SMALL += ["--max-steps", "8", "--log-every", "2", "--eval-every", "4", "--checkpoint-every", "3", "--trace-every", "2"]
CPR = ["--kappa-init-method", "warm_start", "--kappa-init-param", "3"]


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """W&B without a network, and with all that it keeps for itself in a folder of the test's."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its variables once in a process
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp(name)))
    yield
    wandb.teardown()


def train_here(out, *flags):
    train(parse(GrokkingSettings, "", ["--out", str(out), *SMALL, *CPR, *flags]))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected(run):
    """What must be shown of a run, from its tables."""
    series = {}
    for row in rows(run / "metrics.csv"):
        for name, value in row.items():
            if value and name != "step":
                series.setdefault(name, {})[int(row["step"])] = float(value)
    for row in rows(run / "cpr_trace.csv"):
        for column, name in (("lagmul", "lambda"), ("reg", "R"), ("kappa", "kappa")):
            if math.isfinite(value := float(row[column])):
                series.setdefault(f"tensor_{name}/{row['tensor']}", {})[int(row["step"])] = value
    return series


def assert_shows(series, run):
    wanted = expected(run)
    assert any(name.startswith("tensor_kappa/") for name in wanted) and "val_accuracy" in wanted
    assert wanted.keys() == {name for name in series if not name.startswith(("cpr/", "_"))}
    for name, values in wanted.items():
        assert series[name].keys() == values.keys(), name
        if name in ("pairs_per_second", "memory_mb"):  # not the same when a step is done again
            continue
        for step, value in values.items():
            assert np.float32(series[name][step]) == pytest.approx(np.float32(value), rel=1e-6), (name, step)
    assert series["cpr/bounded"][8] == len({name for name in wanted if name.startswith("tensor_kappa/")})


def test_tensorboard_shows_the_tables_also_of_a_resumed_run(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_here(tmp_path / "run", "--log-to", "tensorboard")
    assert read_tensorboard(tmp_path / "run" / "tensorboard")["train_loss"].keys() == {2, 4}
    train_here(tmp_path / "run", "--log-to", "tensorboard", "--resume")  # from step 3, so step 4 comes again
    assert_shows(read_tensorboard(tmp_path / "run" / "tensorboard"), tmp_path / "run")


def test_wandb_shows_the_tables_and_a_resumed_run_is_the_same_run(tmp_path, monkeypatch, offline):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_here(tmp_path / "run", "--log-to", "wandb")
    import wandb

    wandb.finish()  # as the end of the process does
    [first] = read_wandb(tmp_path / "run")
    assert first["history"]["train_loss"].keys() == {2, 4}
    assert first["config"]["script"] == "train_grokking" and first["config"]["kappa_init_param"] == 3
    start = Tracker.start

    def start_behind_the_server(self, *arguments):
        start(self, *arguments)
        self._first_step = 5  # what W&B's server would say; an offline run does not know

    monkeypatch.setattr(Tracker, "start", start_behind_the_server)
    train_here(tmp_path / "run", "--log-to", "wandb", "--resume")
    first, second = read_wandb(tmp_path / "run")
    assert first["id"] == second["id"]
    assert second["history"]["train_loss"].keys() == {6, 8}
    names = first["history"].keys() | second["history"].keys()
    assert_shows({n: first["history"].get(n, {}) | second["history"].get(n, {}) for n in names}, tmp_path / "run")


def test_logging_changes_nothing_in_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    train_here(tmp_path / "with", "--log-to", "tensorboard")
    train_here(tmp_path / "without")
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    names = {path.name for path in (tmp_path / "without").iterdir()}
    assert {path.name for path in (tmp_path / "with").iterdir()} == names | {"tensorboard"}


@pytest.mark.parametrize("tool", ["tensorboard", "wandb"])
def test_without_the_package_nothing_begins(tmp_path, monkeypatch, capsys, tool):
    for name in [name for name in sys.modules if name.startswith((tool, f"torch.utils.{tool}"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tool, None)
    flags = ["--out", str(tmp_path / "run"), *SMALL, "--log-to", tool]
    assert run_script(GrokkingSettings, train, "", flags) == 2
    error = capsys.readouterr().err
    assert f"--log-to {tool} needs the package {tool}, which cannot be imported (" in error
    assert f"pip install {tool}, or leave it out" in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_tracker_that_cannot_begin_is_one_line(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def no_key(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", no_key)
    assert run_script(GrokkingSettings, train, "", ["--out", str(tmp_path), *SMALL, "--log-to", "wandb"]) == 2
    error = capsys.readouterr().err
    assert "--log-to wandb: No API key configured. Use `wandb login` to log in." in error and error.count("\n") == 1


def test_a_tracker_that_fails_later_is_one_warning(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    train_here(tmp_path / "run", "--log-to", "tensorboard")
    error = capsys.readouterr().err
    assert error.count("WARNING: tensorboard failed (OSError: [Errno 28] No space left on device)") == 1
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.csv")] == ["2", "4", "6", "8"]
