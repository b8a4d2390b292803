"""Batches that repeat, whatever makes them: alone with a source that only draws, and inside nnU-Net's trainings."""

import gc
import itertools
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from training_helpers import make_trainer, resumed, same, weights

from nnunet_cpr.training import stopping
from nnunet_cpr.training.batches import RepeatableBatches, augmentation_in_this_process
from nnunet_cpr.training.stopping import StopSignals


class Draws:
    """A source whose batch is a number from each of the generators, after a while that depends on chance."""

    def __next__(self):
        numbers = random.random(), np.random.rand(), torch.rand(1).item()
        time.sleep(numbers[0] / 50)
        return {"data": torch.tensor(numbers, dtype=torch.float64), "keys": np.array(["a", "b"])}


class Fails:
    def __next__(self):
        raise ValueError("no such case")


@pytest.fixture
def new_children():
    """The processes that this test has started; those of an earlier test may still live until they are collected."""
    gc.collect()
    others = set(multiprocessing.active_children())
    return lambda: [child for child in multiprocessing.active_children() if child not in others]


def drawn(count, entropy=(1, 0, 0), start=0, workers=0):
    batches = RepeatableBatches(Draws(), entropy, start, workers, pin_memory=False)
    result = [tuple(batch["data"].tolist()) for batch in itertools.islice(batches, count)]
    batches._finish()
    return result


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    assert drawn(12, workers=workers) == drawn(12)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_belongs_to_its_number(workers):
    """So a resumed training, which begins with a later number, gets the batches that it would have got."""
    assert drawn(4, start=5, workers=workers) == drawn(9)[5:]


def test_all_batches_differ():
    """In every generator: over numbers, seeds, ranks, kinds, and between seeds of which one looks like a number."""
    sequences = [drawn(5, entropy) for entropy in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 0, 0), (0, 0, 1))]
    for numbers in zip(*itertools.chain(*sequences), strict=True):
        assert len(set(numbers)) == 5 * len(sequences)


def test_the_trainings_own_draws_are_left_alone():
    """Dropout draws from torch's generator between the batches."""
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = [(torch.rand(1).item(), np.random.rand(), random.random()) for _ in range(3)]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    batches = RepeatableBatches(Draws(), (1,), 0, 0, pin_memory=False)
    found = []
    for _ in range(3):
        next(batches)
        found.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert found == expected


def test_the_generators_of_gpus_are_left_alone(monkeypatch):
    """Without workers the batches are made in the training's process, whose dropout on a GPU draws from those."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(3)
    assert seeded == [3]
    next(RepeatableBatches(Draws(), (1,), 0, 0, pin_memory=False))
    assert seeded == [3]


def test_batches_are_what_the_source_made():
    batch = next(RepeatableBatches(Draws(), (1,), 0, 1, pin_memory=False))
    assert list(batch) == ["data", "keys"]
    assert isinstance(batch["keys"], np.ndarray)
    assert batch["keys"].tolist() == ["a", "b"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_training(workers):
    with pytest.raises(ValueError, match="no such case"):
        next(RepeatableBatches(Fails(), (1,), 0, workers, pin_memory=False))


def test_finished_batches_leave_no_process(new_children):
    batches = RepeatableBatches(Draws(), (1,), 0, 2, pin_memory=False)
    next(batches)
    assert len(new_children()) == 2
    batches._finish()
    assert not new_children()
    with pytest.raises(RuntimeError, match="finished"):
        next(batches)


def test_workers_outlive_a_stop_signal_to_the_whole_group(new_children, monkeypatch):
    """The training's step in progress may still need them."""
    monkeypatch.setattr(stopping, "WORKERS_GRACE", 300.0)  # on a busy machine the test itself may take some seconds
    with StopSignals():
        batches = RepeatableBatches(Draws(), (1,), 0, 2, pin_memory=False)
        for _ in range(2):  # both workers are at work then
            next(batches)
        for worker in new_children():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(worker.pid, number)
        for _ in range(30):
            next(batches)
        batches._finish()


@pytest.mark.parametrize("before", [None, "3"])
def test_the_number_of_workers_is_only_changed_for_a_while(monkeypatch, before):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    if before:
        monkeypatch.setenv("nnUNet_n_proc_DA", before)
    with augmentation_in_this_process():
        assert get_allowed_n_proc_DA() == 0
    assert os.environ.get("nnUNet_n_proc_DA") == before  # noqa: SIM112 (nnU-Net's name)


# in nnU-Net's trainings


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)


def trained(nnunet, name, workers, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
    trainer = make_trainer(nnunet, name)
    trainer.run_training()
    return trainer


@pytest.mark.parametrize("family", ["nnUNetTrainerSGD", "nnUNetTrainerAdamCPR_ws2"])
def test_the_same_training_with_any_number_of_workers(nnunet, quick, monkeypatch, new_children, family):
    """Bit for bit: the weights, and nnU-Net's numbers of every epoch, those of the validation included."""
    name = f"{family}_2epochs_5iters_seed4"
    expected = trained(nnunet, name, 0, monkeypatch)
    for workers in (1, 3, 3):
        found = trained(nnunet, name, workers, monkeypatch)
        assert same(weights(found), weights(expected))
        logs = [trainer.logger.local_logger.my_fantastic_logging for trainer in (found, expected)]
        for key in ("train_losses", "val_losses", "mean_fg_dice"):
            assert logs[0][key] == logs[1][key]
        assert not new_children()


def test_resumed_with_workers_is_uninterrupted(nnunet, quick, monkeypatch):
    name = "nnUNetTrainerCPR_ws4_4epochs_3iters_seed6"
    expected = trained(nnunet, name, 2, monkeypatch)
    interrupted = make_trainer(nnunet, name)
    interrupted.save_every = 1
    step = interrupted.train_step

    def stopped(batch):
        if interrupted.current_epoch == 2:
            raise KeyboardInterrupt
        return step(batch)

    interrupted.train_step = stopped
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    again = resumed(nnunet, name)
    assert again.current_epoch == 2
    again.run_training()
    assert same(weights(again), weights(expected))


def test_without_a_seed_the_batches_are_nnunets(nnunet, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = make_trainer(nnunet, "nnUNetTrainerSGD_1epochs_1iters")
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    assert [type(loader).__name__ for loader in loaders] == ["NonDetMultiThreadedAugmenter"] * 2
    trainer.dataloader_train, trainer.dataloader_val = loaders
    trainer._finish_workers()


def test_two_trainers_of_one_seed_see_the_same_patches(nnunet, monkeypatch):
    """Whatever their optimizers: comparisons of them are paired in the training's randomness."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    seen = []
    for name in ("nnUNetTrainerSGD_seed3", "nnUNetTrainerAdamCPR_ip_seed3"):
        trainer = make_trainer(nnunet, name)
        trainer.initialize()
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        seen.append([next(loader) for loader in (trainer.dataloader_train, trainer.dataloader_val) for _ in range(3)])
        trainer._finish_workers()
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first["data"], second["data"])
        assert all(map(torch.equal, first["target"], second["target"]))
        assert first["keys"].tolist() == second["keys"].tolist()


def test_a_trainer_with_batches_of_its_own_is_told(nnunet, monkeypatch):
    monkeypatch.setattr(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.get_dataloaders", lambda _: (iter([1]), iter([2]))
    )
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_seed1")
    assert [next(loader) for loader in trainer.get_dataloaders()] == [1, 2]
    with open(trainer.log_file) as file:
        assert "they do not repeat" in file.read()
