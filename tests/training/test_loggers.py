"""What TensorBoard and W&B are told: real offline runs of both, read back and compared with the trace's table."""

import importlib.util
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reading_logs import read_tensorboard, read_wandb
from training_helpers import make_trainer, resumed

from nnunet_cpr.optim import Constraint
from nnunet_cpr.training.loggers import SWITCH, TensorBoardLogger, constraint_values, set_up_loggers
from nnunet_cpr.training.trace import read_trace

CPR, BASELINE = "nnUNetTrainerCPR_ws2_3epochs_2iters", "nnUNetTrainerSGD_2epochs_1iters"

pytestmark = pytest.mark.usefixtures("quick")


def needs(package):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed")


@pytest.fixture(autouse=True)
def empty_folders(request):
    """Each test has the trainings' folders to itself."""
    if "nnunet" in request.fixturenames:
        shutil.rmtree(request.getfixturevalue("nnunet").results, ignore_errors=True)


@pytest.fixture
def tensorboard(monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv(SWITCH, "1")


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """nnU-Net's switch, without a network, and with all that W&B keeps for itself in a folder of the test's."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its variables once in a process
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    yield
    wandb.teardown()


def folder(trainer):
    return Path(trainer.output_folder)


def log(trainer):
    return Path(trainer.log_file).read_text()


def events(trainer):
    return read_tensorboard(folder(trainer) / "tensorboard")


def ends_in(trainer, epoch):
    """Train until the middle of an epoch."""
    original = trainer.validation_step

    def validation_step(batch):
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        return original(batch)

    trainer.validation_step = validation_step
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()


def expected(trainer):
    """What must be logged by CPR's names, from the table that the training has written."""
    series = {}
    for row in read_trace(folder(trainer) / "cpr_trace.csv"):
        values = {"lambda": row.lagmul, "R": row.reg} | ({"kappa": row.kappa} if row.kappa < math.inf else {})
        for quantity, value in values.items():
            series.setdefault(f"tensor_{quantity}/{row.tensor}", {})[row.epoch] = value
        series.setdefault("cpr/bounded", {}).setdefault(row.epoch, 0)
        series["cpr/bounded"][row.epoch] += row.kappa < math.inf
        series.setdefault("cpr/active", {}).setdefault(row.epoch, 0)
        series["cpr/active"][row.epoch] += row.lagmul > 0
    return series


def assert_has_the_trace(series, trainer, epochs):
    rows = expected(trainer)
    assert len(rows) > 20 and any(rows["cpr/active"].values())
    names = {name for name in series if name.startswith(("cpr/", "tensor_"))}
    assert {name for name in names if name.startswith("tensor_")} <= rows.keys() <= names
    for name, values in rows.items():
        assert series[name].keys() == values.keys() and values.keys() <= set(epochs)
        for epoch, value in values.items():  # the table has 9 digits, which are a float32
            assert np.float32(series[name][epoch]) == np.float32(value), (name, epoch)


def assert_has_nnunets_values(series, trainer, prefix):
    """Compare with what nnU-Net keeps in its checkpoints."""
    kept = trainer.logger.local_logger.my_fantastic_logging
    columns = {key: values for key, values in kept.items() if "timestamps" not in key}
    dice = columns.pop("dice_per_class_or_region")
    columns |= {f"dice_per_class_or_region/class_{i + 1}": column for i, column in enumerate(zip(*dice, strict=True))}
    assert len(columns) == 7
    for key, values in columns.items():
        assert series[prefix + key] == pytest.approx(dict(enumerate(values)), rel=1e-6), key


# the names


def test_values_by_hand():
    constraints = [
        Constraint("a", 1, reg=2.0, kappa=math.inf, lagmul=0.0, flips=False),
        Constraint("b", 1, reg=3.0, kappa=2.0, lagmul=0.25, flips=False),
        Constraint("c", 1, reg=1.0, kappa=4.0, lagmul=0.0, flips=False),
        Constraint("d", 1, reg=4.0, kappa=1.0, lagmul=0.75, flips=True),
    ]
    assert constraint_values(constraints) == {
        "cpr/bounded": 3, "cpr/active": 2, "cpr/flipping": 1, "cpr/lambda_max": 0.75, "cpr/lambda_median": 0.125,
        "cpr/R_over_kappa_max": 4.0, "cpr/R_over_kappa_median": 1.5,
        "tensor_lambda/a": 0.0, "tensor_lambda/b": 0.25, "tensor_lambda/c": 0.0, "tensor_lambda/d": 0.75,
        "tensor_R/a": 2.0, "tensor_R/b": 3.0, "tensor_R/c": 1.0, "tensor_R/d": 4.0,
        "tensor_kappa/b": 2.0, "tensor_kappa/c": 4.0, "tensor_kappa/d": 1.0,
    }  # fmt: skip


def test_values_of_frozen_and_of_broken_tensors():
    assert constraint_values([]) == {"cpr/bounded": 0, "cpr/active": 0, "cpr/flipping": 0}
    broken = [Constraint(name, 1, math.nan, 0.0, math.nan, False) for name in "ab"]
    values = constraint_values([*broken, Constraint("c", 1, 1.0, 1.0, 0.5, False)])
    assert math.isnan(values["cpr/lambda_max"]) and math.isnan(values["cpr/lambda_median"])
    assert values["cpr/R_over_kappa_max"] == 1  # a kappa of 0 has no ratio


# TensorBoard


def test_tensorboard_has_the_trace_and_nnunets_values(nnunet, tensorboard):
    trainer = make_trainer(nnunet, CPR)
    trainer.run_training()
    trainer.logger.log_summary("final_val/foreground_dice", 0.5)  # as nnU-Net does after its validation
    series = events(trainer)
    assert_has_the_trace(series, trainer, range(3))
    assert_has_nnunets_values(series, trainer, "nnunet/")
    assert series["nnunet/final_val/foreground_dice"] == {3: 0.5}
    assert not any("timestamp" in name for name in series)


def test_tensorboard_of_a_baseline(nnunet, tensorboard):
    trainer = make_trainer(nnunet, BASELINE)
    trainer.run_training()
    series = events(trainer)
    assert_has_nnunets_values(series, trainer, "nnunet/")
    assert all(name.startswith("nnunet/") for name in series)


def test_tensorboard_has_charts_of_all_tensors_together(nnunet, tensorboard):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    trainer = make_trainer(nnunet, CPR)
    ends_in(trainer, 1)
    reader = EventAccumulator(str(folder(trainer) / "tensorboard"))
    reader.Reload()
    layout = layout_pb2.Layout()
    layout.ParseFromString(reader.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert "tensor_lambda/.*" in tags and "nnunet/train_losses" in tags


def test_a_resumed_training_goes_on_in_the_same_curves(nnunet, tensorboard):
    """Epoch 1 is done twice, with other draws: what the first time has written must not be seen any more."""
    trainer = make_trainer(nnunet, CPR)
    ends_in(trainer, 2)
    (folder(trainer) / "checkpoint_latest.pth").unlink()  # so that the one before is taken up
    before = events(trainer)
    assert before["nnunet/train_losses"].keys() == {0, 1}
    again = resumed(nnunet, CPR)
    assert again.current_epoch == 1
    again.run_training()
    after = events(again)
    assert_has_the_trace(after, again, range(3))
    assert_has_nnunets_values(after, again, "nnunet/")
    assert after["nnunet/train_losses"][0] == before["nnunet/train_losses"][0]
    assert after["nnunet/train_losses"][1] != before["nnunet/train_losses"][1]


def test_a_training_that_begins_anew_takes_the_place_of_the_earlier_one_when_its_first_epoch_ends(nnunet, tensorboard):
    trainer = make_trainer(nnunet, CPR)
    trainer.run_training()
    earlier = events(trainer)
    ends_in(make_trainer(nnunet, CPR), 0)
    assert events(trainer) == earlier  # --c would continue the earlier one
    anew = make_trainer(nnunet, CPR)
    ends_in(anew, 2)
    assert_has_the_trace(events(anew), anew, range(2))
    assert events(anew)["nnunet/val_losses"].keys() == {0, 1}


def test_the_epoch_in_which_a_training_diverged_is_there(nnunet, tensorboard):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_k1e-9_mu1e9_9epochs_1iters_seed2")
    with pytest.raises(SystemExit):
        trainer.run_training()
    last = max(row.epoch for row in read_trace(folder(trainer) / "cpr_trace.csv"))
    series = events(trainer)
    assert max(series["cpr/bounded"]) == max(series["nnunet/train_losses"]) == last
    tensors = [values[last] for name, values in series.items() if name.startswith("tensor_R/")]
    assert not all(map(math.isfinite, tensors))


# the switch


def test_off_by_default(nnunet, monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    trainer = make_trainer(nnunet, CPR)
    ends_in(trainer, 1)
    assert trainer.logger.loggers == []
    assert not (folder(trainer) / "tensorboard").exists()


@pytest.mark.parametrize(("value", "on"), [("0", False), ("false", False), ("", False), ("1", True), ("True", True)])
@needs("tensorboard")
def test_values_of_the_switch(monkeypatch, tmp_path, value, on):
    monkeypatch.setenv(SWITCH, value)
    assert len(set_up(tmp_path)) == on


def test_only_the_first_rank_writes(tensorboard, tmp_path):
    assert len(set_up(tmp_path, rank=0)) == 1
    assert set_up(tmp_path, rank=1) == []


def set_up(folder, rank=0):
    trainer = SimpleNamespace(logger=SimpleNamespace(loggers=[]), output_folder=str(folder), current_epoch=0,
                              local_rank=rank, print_to_log_file=print)  # fmt: skip
    set_up_loggers(trainer)
    return trainer.logger.loggers


def refused(nnunet):
    """Return the error of a training that must not begin."""
    trainer = make_trainer(nnunet, CPR)
    with pytest.raises(ValueError) as error:
        trainer.run_training()
    assert "\n" not in str(error.value)
    assert not trainer.was_initialized
    return str(error.value)


def test_another_value_of_the_switch_is_refused_before_the_training(nnunet, monkeypatch):
    monkeypatch.setenv(SWITCH, "yes")
    assert refused(nnunet) == "NNUNET_CPR_TENSORBOARD is 'yes', but must be 1 (on) or 0 (off)"


def test_without_the_package_the_training_does_not_begin(nnunet, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = refused(nnunet)
    assert message.startswith("NNUNET_CPR_TENSORBOARD=1 needs the package tensorboard, which cannot be imported (")
    assert message.endswith("): pip install tensorboard, or unset NNUNET_CPR_TENSORBOARD")


# loggers that fail


def test_a_folder_that_cannot_be_made_is_one_warning(nnunet, tensorboard):
    trainer = make_trainer(nnunet, CPR)
    (folder(trainer) / "tensorboard").write_text("in the way")
    trainer.run_training()
    assert log(trainer).count("WARNING: TensorBoardLogger failed (") == 1
    assert {row.epoch for row in read_trace(folder(trainer) / "cpr_trace.csv")} == {0, 1, 2}
    assert (folder(trainer) / "checkpoint_final.pth").exists()


def test_nnunets_own_logger_may_fail(nnunet):
    class Unreachable:
        def update_config(self, config):
            pass

        def log(self, key, value, step):
            raise ConnectionError("no route\nto host")

        log_summary = log

    trainer = make_trainer(nnunet, CPR)
    trainer.logger.loggers.append(Unreachable())
    trainer.run_training()
    warnings = [line for line in log(trainer).splitlines() if "Unreachable" in line]
    assert len(warnings) == 1
    assert "WARNING: Unreachable failed (ConnectionError: no route to host). The training goes on" in warnings[0]


@needs("tensorboard")
def test_after_a_full_disk_later_epochs_are_written_again(tmp_path, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(28, "No space left on device")

    logger = TensorBoardLogger(tmp_path, 0)
    logger.write({"a": 0.5}, 0)
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        patch.setattr("threading.excepthook", lambda _: None)  # TensorBoard's own thread fails, too
        with pytest.raises(OSError, match="No space left"):
            logger.write({"a": 1.5}, 1)
    logger.write({"a": 2.5}, 2)
    assert read_tensorboard(tmp_path)["a"] == {0: 0.5, 2: 2.5}


# W&B


def finish(trainer):
    """End W&B's run as the end of the process does."""
    for guarded in trainer.logger.loggers:
        guarded.run.finish()


def test_wandb_has_the_trace_and_nnunets_values(nnunet, wandb):
    trainer = make_trainer(nnunet, CPR)
    trainer.run_training()
    finish(trainer)
    [run] = read_wandb(folder(trainer))
    assert_has_the_trace(run["history"], trainer, range(3))
    assert_has_nnunets_values(run["history"], trainer, "")
    assert run["config"]["trainer"] == CPR


def test_resumed_wandb_goes_on_in_the_same_run(nnunet, wandb):
    """Epoch 1 is done twice. As nnU-Net's own values, the second ones are not sent where W&B has the first."""
    trainer = make_trainer(nnunet, CPR)
    ends_in(trainer, 2)
    finish(trainer)
    (folder(trainer) / "checkpoint_latest.pth").unlink()  # so that the one before is taken up
    again = resumed(nnunet, CPR)
    assert again.current_epoch == 1
    again.logger.loggers[0].wandb_init_step = 2  # what W&B's server would say; an offline run does not know
    again.run_training()
    finish(again)
    first, second = read_wandb(folder(again))
    assert first["id"] == second["id"]
    for name in ("train_losses", "cpr/active", "tensor_lambda/decoder.transpconvs.1.weight"):
        assert second["history"][name].keys() == {2}
    assert first["history"]["cpr/active"].keys() == {0, 1}


def test_wandb_and_tensorboard_together_have_the_same_values(nnunet, wandb, tensorboard):
    trainer = make_trainer(nnunet, CPR)
    ends_in(trainer, 2)
    trainer.logger.loggers[0].run.finish()
    history, series = read_wandb(folder(trainer))[0]["history"], events(trainer)
    assert {name for name in history if "/" in name and "dice" not in name} == {
        name for name in series if not name.startswith("nnunet/")
    }
    assert history["cpr/lambda_max"] == pytest.approx(series["cpr/lambda_max"], rel=1e-6)
