"""Trainers that are stopped or find broken checkpoints, inside nnU-Net's training loop."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from training_helpers import ddp_trainer, make_trainer, resumed, same, weights

from nnunet_cpr.training import interruptible
from nnunet_cpr.training.checkpoints import BEST, FINAL, LATEST, PREVIOUS
from nnunet_cpr.training.launch import children_stop_first
from nnunet_cpr.training.stopping import Stopped
from nnunet_cpr.training.trace import read_trace

NAMES = ["nnUNetTrainerCPR_ws4_warmup3_4epochs_5iters_seed5", "nnUNetTrainerAdamW_4epochs_5iters_seed5"]

ENDS = {}
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def empty_folders(nnunet):
    """Each test has the trainings' folders to itself."""
    for name in NAMES:
        shutil.rmtree(nnunet.results / f"{name}__nnUNetPlans__tiny", ignore_errors=True)


@pytest.fixture
def undisturbed(nnunet, empty_folders):
    """What the trainings have at their end when nobody disturbs them."""

    def end_of(name):
        if name not in ENDS:
            trainer = make_trainer(nnunet, name)
            trainer.run_training()
            ENDS[name] = state(trainer)
            shutil.rmtree(folder(trainer))
        return ENDS[name]

    return end_of


def state(trainer):
    """Everything that must be equal: weights, momenta, bounds, multipliers, logs, trace, the best one's checkpoint."""
    final, best = (torch.load(folder(trainer) / name, weights_only=False) for name in (FINAL, BEST))
    logs = {key: value for key, value in final["logging"].items() if "timestamps" not in key}
    return {
        "weights": weights(trainer),
        "optimizer": final["optimizer_state"],
        "logs": json.dumps(logs, default=float),
        "epochs": (final["current_epoch"], best["current_epoch"], final["_best_ema"], best["_best_ema"]),
        "best": best["network_weights"],
        "trace": read_trace(folder(trainer) / "cpr_trace.csv"),
    }


def assert_equal(first, second):
    assert same(first["weights"], second["weights"]) and same(first["best"], second["best"])
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]
    for p, values in second["optimizer"]["state"].items():
        for key, value in values.items():
            np.testing.assert_array_equal(np.asarray(first["optimizer"]["state"][p][key]), np.asarray(value))
    for key in ("logs", "epochs", "trace"):
        assert first[key] == second[key]


def folder(trainer):
    return Path(trainer.output_folder)


def names(trainer):
    return {path.name for path in folder(trainer).iterdir() if "checkpoint" in path.name}


def log(trainer):
    return Path(trainer.log_file).read_text()


def signal_at(trainer, method, epoch, call, number=signal.SIGUSR1):
    """Let the training be sent a signal while it is in that call of one of its methods."""
    original, calls = getattr(trainer, method), [0]

    def signaled(*args):
        result = original(*args) if method != "train_step" else None
        if trainer.current_epoch == epoch:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), number)
        return original(*args) if method == "train_step" else result

    setattr(trainer, method, signaled)


def stop(trainer):
    with pytest.raises(SystemExit) as stopped:
        trainer.run_training()
    assert stopped.value.code == 75


# stop signals


@pytest.mark.parametrize(
    ("method", "epoch", "call"),
    [("train_step", 2, 2), ("on_validation_epoch_start", 1, 1), ("on_train_epoch_end", 0, 1), ("print_plans", 0, 1)],
)
@pytest.mark.parametrize("name", NAMES)
def test_stopped_and_resumed_is_undisturbed(nnunet, undisturbed, name, method, epoch, call):
    expected = undisturbed(name)
    trainer = make_trainer(nnunet, name)
    signal_at(trainer, method, epoch, call)
    stop(trainer)
    what = "--c goes on" if epoch else "nothing is saved yet"
    assert f"Stopped by SIGUSR1 in epoch {epoch}; {what} (exit code 75)." in log(trainer)
    assert (LATEST in names(trainer)) == (epoch > 0)
    again = resumed(nnunet, name)
    assert again.current_epoch == epoch
    again.run_training()
    assert_equal(state(again), expected)
    assert names(again) == {BEST, FINAL}


def test_the_step_in_progress_is_finished_and_no_other_begun(nnunet):
    trainer = make_trainer(nnunet, NAMES[0])
    steps = []
    signal_at(trainer, "train_step", 1, 3)
    trainer.initialize()
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.current_epoch))
    stop(trainer)
    assert steps == [0] * 5 + [1] * 3


def test_a_signal_after_the_last_step_leaves_the_validation_to_do(nnunet):
    trainer = make_trainer(nnunet, NAMES[1])
    signal_at(trainer, "on_train_end", 4, 1)
    stop(trainer)
    assert names(trainer) == {BEST, FINAL}
    again = resumed(nnunet, NAMES[1])
    again.run_training()
    assert same(weights(again), weights(trainer))


def test_an_error_while_stopping_is_no_failure(nnunet):
    """Say, of an augmentation worker that the same signal ended."""
    trainer = make_trainer(nnunet, NAMES[1])

    def broken(batch):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("One or more background workers are no longer alive")

    trainer.train_step = broken
    stop(trainer)
    assert "RuntimeError while stopping: One or more background workers" in log(trainer)
    trainer = make_trainer(nnunet, NAMES[1])
    trainer.train_step = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.run_training()


def test_nothing_to_resume_no_special_signals(nnunet):
    """With --disable_checkpointing."""
    trainer = make_trainer(nnunet, NAMES[1])
    trainer.disable_checkpointing = True
    signal_at(trainer, "train_step", 0, 1, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()


# several processes


def _stopped_rank(rank, world_size, nnunet, directory, signaled):
    trainer = ddp_trainer(nnunet, "nnUNetTrainerCPR_ws2_50epochs_40iters_seed1", rank, world_size, directory)
    steps = []
    train_step = trainer.train_step

    def counted(batch):
        steps.append(trainer.current_epoch)
        if rank == signaled and len(steps) == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        Path(directory, f"training{rank}").touch()
        return train_step(batch)

    trainer.train_step = counted
    try:
        trainer.run_training()
    finally:
        Path(directory, f"rank{rank}.json").write_text(json.dumps([len(steps), os.getppid()]))


@pytest.mark.parametrize("signaled", [1, None])
def test_all_processes_stop_at_the_same_step(nnunet, tmp_path, signaled):
    """One of two is sent a signal; or their parent is, which passes it on."""
    marks = [tmp_path / f"training{rank}" for rank in range(2)]

    def signal_parent():
        while not all(mark.exists() for mark in marks):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    if signaled is None:
        threading.Thread(target=signal_parent, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), children_stop_first():
        torch.multiprocessing.spawn(_stopped_rank, args=(2, nnunet, str(tmp_path), signaled), nprocs=2)
    assert signal.getsignal(signal.SIGTERM) is before
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == 3 if signaled is not None else first[0] >= 1


def test_other_ends_of_children_are_as_always():
    failure = torch.multiprocessing.ProcessExitedException("exit code 3", error_index=0, error_pid=1, exit_code=3)
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="exit code 3"), children_stop_first():
        raise failure
    with pytest.raises(KeyboardInterrupt), children_stop_first():  # no children
        os.kill(os.getpid(), signal.SIGINT)


# broken checkpoints


@pytest.fixture
def stopped(nnunet, undisturbed):
    """A training that was stopped in epoch 3: its name, its folder, and what it would have at its end."""
    expected = undisturbed(NAMES[0])
    trainer = make_trainer(nnunet, NAMES[0])
    signal_at(trainer, "train_step", 3, 1)
    stop(trainer)
    assert names(trainer) == {BEST, LATEST, PREVIOUS}
    return NAMES[0], folder(trainer), expected


@pytest.mark.parametrize(
    ("broken", "epoch", "used"), [([LATEST], 2, PREVIOUS), ([LATEST, PREVIOUS], None, BEST), ([PREVIOUS], 3, LATEST)]
)
def test_resuming_falls_back_to_the_last_good_one(nnunet, stopped, broken, epoch, used):
    name, output, expected = stopped
    for each in broken:
        content = (output / each).read_bytes()
        (output / each).write_bytes(content[: len(content) // 2])
    trainer = resumed(nnunet, name)
    assert trainer.current_epoch == torch.load(output / used, weights_only=False)["current_epoch"]
    assert epoch in (None, trainer.current_epoch)
    passed_over = broken if used != LATEST else []
    for each in passed_over:
        assert f"WARNING: {each} is broken (File is not a zip file) and was renamed to {each}.broken." in log(trainer)
    trainer.run_training()
    assert_equal(state(trainer), expected)
    assert names(trainer) == {BEST, FINAL} | {f"{each}.broken" for each in passed_over}


def test_a_final_one_that_broke_later(nnunet, stopped):
    """--val refuses to take another for it; --c trains on from the best one."""
    name, output, expected = stopped
    trainer = resumed(nnunet, name)
    trainer.run_training()
    content = bytearray((output / FINAL).read_bytes())
    content[len(content) // 2] ^= 1
    (output / FINAL).write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint_final.pth is broken \(the checksum of .* with --c goes on"):
        maybe_load_checkpoint(make_trainer(nnunet, name), continue_training=False, validation_only=True)
    assert (output / FINAL).read_bytes() == content
    trainer = resumed(nnunet, name)
    trainer.run_training()
    assert_equal(state(trainer), expected)


def test_nothing_intact_begins_anew_and_says_so(nnunet, stopped):
    name, output, expected = stopped
    for each in (BEST, LATEST, PREVIOUS):
        (output / each).write_bytes(b"")
    trainer = resumed(nnunet, name)
    assert "WARNING: NO CHECKPOINT IS INTACT, SO THE TRAINING BEGINS ANEW WITH EPOCH 0." in log(trainer)
    assert trainer.current_epoch == 0
    trainer.run_training()
    assert_equal(state(trainer), expected)
    assert {f"{each}.broken" for each in (BEST, LATEST, PREVIOUS)} < names(trainer)


def _late_rank(rank, world_size, nnunet, directory):
    trainer = ddp_trainer(nnunet, NAMES[1], rank, world_size, directory, resume=True)
    time.sleep(2 * rank)  # the other could have renamed the file by then
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    Path(directory, f"rank{rank}.json").write_text(json.dumps(trainer.current_epoch))


def test_all_processes_find_the_broken_file_before_it_is_renamed(nnunet, tmp_path):
    """nnU-Net looks for a checkpoint in each process, and does not ask the trainer where there is none."""
    output = folder(make_trainer(nnunet, NAMES[1]))
    output.mkdir(parents=True, exist_ok=True)
    (output / LATEST).write_bytes(b"")
    torch.multiprocessing.spawn(_late_rank, args=(2, nnunet, str(tmp_path)), nprocs=2)
    assert [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)] == [0, 0]
    assert (output / f"{LATEST}.broken").is_file()


def test_val_best_loads_the_best_one_even_with_c(nnunet, stopped):
    name, output, _ = stopped
    trainer = resumed(nnunet, name)
    trainer.run_training()
    trainer.load_checkpoint(str(output / BEST))
    assert same(trainer.network.state_dict(), torch.load(output / BEST, weights_only=False)["network_weights"])


# what is on the disk


def test_a_new_training_in_an_old_ones_folder(nnunet, stopped):
    """Its checkpoints replace the old ones only when there are some; the old ones cannot be taken for the new."""
    name, output, _ = stopped
    old = {each: (output / each).read_bytes() for each in (BEST, LATEST, PREVIOUS)}
    (output / FINAL).write_bytes(old[BEST])
    trainer = make_trainer(nnunet, name)
    signal_at(trainer, "train_step", 0, 1)
    stop(trainer)
    assert names(trainer) == {BEST, LATEST, PREVIOUS, FINAL}
    trainer = make_trainer(nnunet, name)
    signal_at(trainer, "train_step", 1, 1)
    stop(trainer)
    assert names(trainer) == {BEST, LATEST} | {f"{each}.old" for each in (BEST, LATEST, PREVIOUS, FINAL)}
    assert all((output / f"{each}.old").read_bytes() == content for each, content in old.items())
    assert resumed(nnunet, name).current_epoch == 1


@pytest.mark.parametrize("save_every", [50, 1])
def test_the_latest_knows_of_the_best_of_its_own_epoch(nnunet, save_every):
    """nnU-Net saves the one before the other, so that a resumed training forgets its best epoch."""
    trainer = make_trainer(nnunet, NAMES[1])
    trainer.save_every = save_every
    signal_at(trainer, "train_step", 2, 1)
    stop(trainer)
    assert trainer.save_every == save_every
    latest, previous = (torch.load(folder(trainer) / name, weights_only=False) for name in (LATEST, PREVIOUS))
    assert (latest["current_epoch"], previous["current_epoch"]) == (2, 1)
    averages = latest["logging"]["ema_fg_dice"]
    assert (latest["_best_ema"], previous["_best_ema"]) == (max(averages), averages[0])


def test_where_saving_is_slow_nnunets_rhythm_remains(nnunet, monkeypatch):
    monkeypatch.setattr(interruptible.checkpoints.Pace, "due", lambda _: False)
    trainer = make_trainer(nnunet, NAMES[1])
    trainer.save_every = 2
    signal_at(trainer, "train_step", 3, 1)
    stop(trainer)
    assert torch.load(folder(trainer) / LATEST, weights_only=False)["current_epoch"] == 2


def test_a_full_disk_costs_checkpoints_but_not_the_training(nnunet, monkeypatch):
    trainer = make_trainer(nnunet, NAMES[1])
    epochs = {1, 2}

    def full(descriptor):
        if trainer.current_epoch in epochs:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    signal_at(trainer, "train_step", 3, 1)
    stop(trainer)
    assert log(trainer).count(f"WARNING: {LATEST} could not be written, the one before stays: [Errno 28]") == 2
    assert resumed(nnunet, NAMES[1]).current_epoch == 1
    trainer = make_trainer(nnunet, NAMES[1])
    monkeypatch.setattr(interruptible, "LATEST", "x")
    monkeypatch.setattr(interruptible, "BEST", "x")
    epochs = {0}  # whose checkpoint is the best so far in any case
    with pytest.raises(OSError, match="No space left"):
        trainer.run_training()


# finishing early


def finish_in(trainer, epoch):
    """Put the file there in the middle of an epoch."""
    step = trainer.train_step

    def train_step(batch):
        if trainer.current_epoch == epoch:
            (folder(trainer) / interruptible.FINISH).touch()
        return step(batch)

    trainer.train_step = train_step


@pytest.mark.parametrize("name", NAMES)
def test_finished_early_it_is_whole_and_goes_on_as_undisturbed(nnunet, undisturbed, name):
    trainer = make_trainer(nnunet, name)
    finish_in(trainer, 1)
    trainer.run_training()
    left = names(trainer)
    assert FINAL in left and not left & {LATEST, PREVIOUS}
    assert not (folder(trainer) / interruptible.FINISH).exists()
    final = torch.load(folder(trainer) / FINAL, weights_only=False)
    assert final["current_epoch"] == 2 and len(final["logging"]["train_losses"]) == 2
    assert "the training ends after epoch 1 of 4 epochs" in log(trainer)
    trainer.perform_actual_validation()
    assert (folder(trainer) / "validation" / "summary.json").is_file()

    again = resumed(nnunet, name)
    assert again.current_epoch == 2
    signal_at(again, "train_step", 3, 1)  # epoch 2 is done and saved, and then it is the newest
    stop(again)
    assert resumed(nnunet, name).current_epoch == 3
    last = resumed(nnunet, name)
    last.run_training()
    assert_equal(state(last), undisturbed(name))


def test_a_request_to_finish_before_the_first_epoch_waits_for_its_end(nnunet):
    trainer = make_trainer(nnunet, NAMES[1])
    folder(trainer).mkdir(parents=True, exist_ok=True)
    (folder(trainer) / interruptible.FINISH).touch()
    trainer.run_training()
    assert torch.load(folder(trainer) / FINAL, weights_only=False)["current_epoch"] == 1


def test_a_request_to_finish_in_the_last_epoch_is_not_kept_for_a_later_training(nnunet):
    trainer = make_trainer(nnunet, NAMES[1])
    finish_in(trainer, 3)
    trainer.run_training()
    assert FINAL in names(trainer) and not (folder(trainer) / interruptible.FINISH).exists()


def test_leftovers_of_a_killed_predecessor_are_removed(nnunet):
    trainer = make_trainer(nnunet, NAMES[1])
    leftover = folder(trainer) / ".999999999-checkpoint_latest.pth"
    leftover.touch()
    signal_at(trainer, "train_step", 0, 1)
    stop(trainer)
    assert not leftover.exists()
