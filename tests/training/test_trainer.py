"""The trainers inside nnU-Net's training loop, on real images with a tiny network."""

import copy
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from training_helpers import ddp_trainer, make_trainer, same, weights

from nnunet_cpr.optim import SGDCPR, AdamCPR
from nnunet_cpr.training.factory import trainer_class
from nnunet_cpr.training.trace import read_trace


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without a figure's second after every epoch."""
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr("nnunet_cpr.training.trace.draw", lambda _: Figure())


def log(trainer):
    with open(trainer.log_file) as file:
        return file.read()


@pytest.mark.parametrize(
    ("asked", "cores", "expected"), [("", 1, 1), ("", 64, 4), ("2", 1, 2), ("64", 1, 4), ("0", 1, 1), ("x", 1, 1)]
)
def test_threads_are_those_asked_for_or_of_the_job_and_never_more(nnunet, monkeypatch, asked, cores, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as nnU-Net's users have it, for the augmentation workers
    monkeypatch.setenv("NNUNET_CPR_THREADS", asked)
    monkeypatch.setattr("nnunet_cpr.training.threads.job_cores", lambda: cores)
    torch.set_num_threads(4)  # as nnU-Net does on a machine of four cores; the fixture one_thread undoes it
    make_trainer(nnunet, "nnUNetTrainerCPR_on_nnUNetTrainerNoDA")
    assert torch.get_num_threads() == expected


def batch(nnunet, seed=0, regions=None):
    """A random batch of the tiny configuration, with its two deep supervision targets."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.rand(2, 1, 24, 32, 24, generator=generator)
    target = torch.randint(0, 3, (2, 1, 24, 32, 24), generator=generator).float()
    return {"data": data, "target": [target, target[:, :, ::2, ::2, ::2]]}


def trained(nnunet, name, **changes):
    trainer = make_trainer(nnunet, name, **changes)
    trainer.run_training()
    return trainer


# what a name makes


@pytest.mark.parametrize(
    ("name", "optimizer", "expected"),
    [
        ("nnUNetTrainerCPR", SGDCPR, dict(lr=0.01, momentum=0.99, nesterov=True, kappa_init_param=1000)),
        ("nnUNetTrainerAdamCPR_ip_lr1e-4", AdamCPR, dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0,
                                                        kappa_init_method="inflection_point")),
        ("nnUNetTrainerSGD_wd1e-2", torch.optim.SGD, dict(lr=0.01, momentum=0.99, nesterov=True, weight_decay=0.01)),
        ("nnUNetTrainerAdamW", torch.optim.AdamW, dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)),
        ("nnUNetTrainerCPR_l1_mu0.5_proximal_adaptive", SGDCPR, dict(reg_function="l1", kappa_update=0.5,
                                                                    step_form="proximal", adaptive_bounds=True)),
    ],
)  # fmt: skip
def test_optimizer(nnunet, name, optimizer, expected):
    trainer = make_trainer(nnunet, name)
    trainer.initialize()
    assert type(trainer.optimizer) is optimizer
    for group in trainer.optimizer.param_groups:
        assert {key: group[key] for key in expected} == expected
    in_groups = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, in_groups)) == sorted(map(id, trainer.network.parameters()))


def test_what_is_regularized(nnunet):
    """Kernels, by their dimensions; not the biases and the instance norms."""
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR")
    trainer.initialize()
    kernels = {name for name, p in trainer.network.named_parameters() if p.ndim == 5}
    assert {c.name for c in trainer.optimizer.constraints()} == kernels
    assert len(kernels) == 9


def test_numbers_of_the_name(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerSGD_20epochs_100iters_lr1e-3_wd1e-2")
    assert trainer.num_epochs == 20
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (100, 20)
    assert (trainer.initial_lr, trainer.weight_decay) == (0.001, 0.01)
    default = make_trainer(nnunet, "nnUNetTrainerCPR")
    nnunets = nnUNetTrainer(copy.deepcopy(nnunet.plans) | {"continue_training": False}, "tiny", 0, nnunet.dataset_json,
                            torch.device("cpu"))  # fmt: skip
    for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "initial_lr", "save_every"):
        assert getattr(default, name) == getattr(nnunets, name)


def test_plain_sgd_is_nnunets_own_trainer(nnunet):
    ours = make_trainer(nnunet, "nnUNetTrainerSGD")
    theirs = nnUNetTrainer(copy.deepcopy(nnunet.plans) | {"continue_training": False}, "tiny", 0, nnunet.dataset_json,
                           torch.device("cpu"))  # fmt: skip
    for trainer in (ours, theirs):
        torch.manual_seed(0)
        trainer.initialize()
        for epoch in range(2):
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            for step in range(3):
                trainer.train_step(batch(nnunet, step))
    assert same(weights(ours), weights(theirs))


# schedule


def test_warmup_is_per_step(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerSGD_warmup4_3epochs_3iters")
    trainer.initialize()
    rates = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (rates.append({g["lr"] for g in trainer.optimizer.param_groups}), step())
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for i in range(3):
            trainer.train_step(batch(nnunet, i))
    by_hand = [0.0025, 0.005, 0.0075, 0.01] + [0.01 * ((5 - t) / 5) ** 0.9 for t in range(5)]
    assert all(len(rate) == 1 for rate in rates)
    assert [rate.pop() for rate in rates] == pytest.approx(by_hand)


# bounds and the trace


def test_warm_start_bounds_are_the_weights_of_that_step(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_ws3_1epochs_5iters")
    trainer.initialize()
    trainer.on_train_epoch_start()
    for i in range(5):
        if i == 3:
            norms = {name: float(w.square().sum()) for name, w in weights(trainer).items()}
        assert all(math.isinf(c.kappa) for c in trainer.optimizer.constraints()) == (i <= 3)
        trainer.train_step(batch(nnunet, i))
    for c in trainer.optimizer.constraints():
        # nnU-Net gives the lowest deep supervision output no loss, so its kernel has no gradient and needs no bound
        assert c.kappa == (
            math.inf if c.name == "decoder.seg_layers.0.weight" else pytest.approx(norms[c.name], rel=1e-6)
        )


@pytest.mark.filterwarnings("ignore:.*nothing to regularize yet")
@pytest.mark.parametrize("frozen", ["encoder", ""])
def test_frozen_kernels_are_not_in_trace_and_log(nnunet, frozen):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_ws1_1epochs_2iters")
    trainer.initialize()
    for name, p in trainer.network.named_parameters():
        p.requires_grad_(not (p.ndim == 5 and name.startswith(frozen)))
    trainer.run_training()
    learning = [name for name, p in trainer.network.named_parameters() if p.ndim == 5 and p.requires_grad]
    rows = read_trace(f"{trainer.output_folder}/cpr_trace.csv")
    assert {row.tensor for row in rows} == set(learning) and len(rows) == len(learning)
    expected = f"of {len(learning)} regularized tensors bounded" if learning else "all regularized tensors are frozen"
    assert expected in log(trainer)
    assert bool(learning) is bool(frozen)


def test_trace_and_log(nnunet):
    trainer = trained(nnunet, "nnUNetTrainerCPR_ws3_3epochs_2iters")
    rows = read_trace(f"{trainer.output_folder}/cpr_trace.csv")
    assert [(r.epoch, r.step) for r in rows] == [(e, 2 * e + 2) for e in range(3) for _ in range(9)]
    for row, c in zip(rows[-9:], trainer.optimizer.constraints(), strict=True):
        assert (row.tensor, *np.float32(row[3:])) == (c.name, c.reg, c.kappa, c.lagmul)
    assert all(math.isinf(r.kappa) for r in rows[:9])
    assert sum(math.isfinite(r.kappa) for r in rows[9:18]) == 8
    lines = [line.split(": ", 1)[1] for line in log(trainer).splitlines() if "CPR: " in line]
    assert len(lines) == 3
    assert lines[0].strip() == "CPR: 0 of 9 regularized tensors bounded, 0 active, largest lambda 0"
    largest = max(trainer.optimizer.constraints(), key=lambda c: c.lagmul)
    active = sum(c.lagmul > 0 for c in trainer.optimizer.constraints())
    assert lines[2].startswith(f"CPR: 8 of 9 regularized tensors bounded, {active} active, largest lambda")
    if active:
        assert largest.name in lines[2]
    assert Path(trainer.output_folder, "cpr_progress.png").is_file()


def test_baselines_have_no_trace(nnunet, tmp_path):
    trainer = trained(nnunet, "nnUNetTrainerSGD_1epochs_1iters")
    assert "CPR" not in log(trainer)
    assert not list(Path(trainer.output_folder).glob("cpr_*"))


def test_a_flip_of_signs_is_told_once(nnunet):
    """A bound far below the weights makes lambda explode at once."""
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_k1e-9_mu1e9_9epochs_1iters_seed1")
    with pytest.raises(SystemExit):
        trainer.run_training()
    warnings = [line for line in log(trainer).splitlines() if "WARNING: lambda of" in line]
    assert len(warnings) == 1
    assert "_proximal" in warnings[0] and "warm start" in warnings[0]
    proximal = trained(nnunet, "nnUNetTrainerCPR_k1e-9_mu1e9_proximal_2epochs_1iters_seed1")
    assert "WARNING: lambda of" not in log(proximal)


def test_a_diverged_training_ends_and_keeps_its_last_good_checkpoint(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_k1e-9_mu1e9_9epochs_1iters_seed2")
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert stop.value.code == 1
    rows = read_trace(f"{trainer.output_folder}/cpr_trace.csv")
    last = max(row.epoch for row in rows)
    assert 0 < last < 8
    assert next(row.epoch for row in rows if not math.isfinite(row.reg)) == last
    saved = torch.load(f"{trainer.output_folder}/checkpoint_latest.pth", weights_only=False)
    assert saved["current_epoch"] == last
    assert all(tensor.isfinite().all() for tensor in saved["network_weights"].values())
    assert not Path(trainer.output_folder, "checkpoint_final.pth").exists()
    told = [line for line in log(trainer).splitlines() if "STOPPED: the weights are not finite" in line]
    assert len(told) == 1
    assert "checkpoint_latest.pth is from before" in told[0] and "_proximal" in told[0]


def test_a_trace_that_cannot_be_written_does_not_end_the_training(nnunet, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_cpr.training.trace.write_whole", full)
    trainer = trained(nnunet, "nnUNetTrainerCPR_ws1_2epochs_1iters")
    assert log(trainer).count("trace could not be written: [Errno 28] No space left") == 2


# users' mistakes


def test_a_warm_start_longer_than_the_training(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_ws50_5epochs_10iters")
    with pytest.raises(ValueError, match="warm start takes 50 steps, but the training has only 50") as error:
        trainer.initialize()
    assert "\n" not in str(error.value)


def test_a_network_without_regularized_parameters(nnunet, monkeypatch):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR")
    monkeypatch.setattr(
        trainer, "build_network_architecture", lambda plans_manager, *_: torch.nn.InstanceNorm3d(1, affine=True)
    )
    with pytest.raises(ValueError, match="no parameter to regularize"):
        trainer.initialize()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_asked_for_but_absent(nnunet):
    with pytest.raises(ValueError, match=r"CUDA was asked for .* use -device cpu"):
        trainer_class("nnUNetTrainerCPR")(copy.deepcopy(nnunet.plans), "tiny", 0, nnunet.dataset_json)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (None, "nnUNet_results is not set"),
        ("file/results", "nnUNet_results is .*file/results, which cannot be made: Not a directory"),
        ("closed", "nnUNet_results is .*closed, which is not writable"),
    ],
)
def test_a_results_folder_that_cannot_be_used(nnunet, monkeypatch, tmp_path, folder, message):
    (tmp_path / "file").write_text("")
    if folder is None:
        monkeypatch.delenv("nnUNet_results")
    else:
        monkeypatch.setenv("nnUNet_results", str(tmp_path / folder))
    # Root may write everywhere, so the mode of a folder would not do.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("closed"))
    with pytest.raises(ValueError, match=message) as error:
        trainer_class("nnUNetTrainerCPR")(
            copy.deepcopy(nnunet.plans), "tiny", 0, nnunet.dataset_json, torch.device("cpu")
        )
    assert "\n" not in str(error.value)


# seeds and resuming


def test_the_same_seed_is_the_same_training(nnunet):
    first, second, other = (
        weights(trained(nnunet, f"nnUNetTrainerCPR_ws2_2epochs_3iters_seed{seed}")) for seed in (1, 1, 2)
    )
    assert same(first, second)
    assert not same(first, other)


def test_a_seed_leaves_no_choice_to_timing(nnunet):
    """nnU-Net's blur times two algorithms and takes the faster."""
    for name, timed in (("nnUNetTrainerSGD", [True]), ("nnUNetTrainerSGD_seed1", [False])):
        transforms = make_trainer(nnunet, name).get_training_transforms([24, 32, 24], (0, 0), None, (0, 1, 2), False)
        inner = [getattr(transform, "transform", transform) for transform in transforms.transforms]
        assert [t.benchmark for t in inner if hasattr(t, "benchmark")] == timed


def test_ranks_draw_different_patches(nnunet):
    drawn = []
    for rank in (0, 1):
        trainer = make_trainer(nnunet, "nnUNetTrainerSGD_seed1")
        trainer.local_rank = rank
        trainer._seed(0)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert not set(drawn[0]) & set(drawn[1])


def test_without_a_seed_trainings_differ(nnunet):
    first, second = (weights(trained(nnunet, "nnUNetTrainerSGD_1epochs_1iters")) for _ in range(2))
    assert not same(first, second)


class Killed(Exception):
    pass


@pytest.mark.parametrize("suffix", ["ws4_warmup3", "ki0.9_std_adaptive", "ws2_bf16"])
@pytest.mark.parametrize("family", ["nnUNetTrainerCPR", "nnUNetTrainerAdamCPR"])
def test_resumed_is_uninterrupted(nnunet, family, suffix, monkeypatch):
    """Bit for bit: weights, bounds, multipliers, momentum, learning rates, trace."""
    name = f"{family}_{suffix}_4epochs_3iters_seed5"
    uninterrupted = trained(nnunet, name)
    expected_trace = read_trace(f"{uninterrupted.output_folder}/cpr_trace.csv")

    interrupted = make_trainer(nnunet, name)
    interrupted.save_every = 1
    step = interrupted.train_step

    def killed(data):
        if interrupted.current_epoch == 2:
            step(data)
            raise Killed
        return step(data)

    interrupted.train_step = killed
    with pytest.raises(Killed):
        interrupted.run_training()
    resumed = make_trainer(nnunet, name)
    resumed.load_checkpoint(f"{interrupted.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    resumed.run_training()

    assert same(weights(resumed), weights(uninterrupted))
    states = [t.optimizer.state_dict() for t in (resumed, uninterrupted)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for p in states[1]["state"]:
        for key, value in states[1]["state"][p].items():
            assert torch.equal(torch.as_tensor(states[0]["state"][p][key]), torch.as_tensor(value)), (p, key)
    for key in ("lrs", "train_losses", "val_losses", "mean_fg_dice"):
        np.testing.assert_array_equal(resumed.logger.get_value(key, None), uninterrupted.logger.get_value(key, None))
    assert read_trace(f"{resumed.output_folder}/cpr_trace.csv") == expected_trace
    assert any(c.active for c in resumed.optimizer.constraints())


# precision, compilation, gradient scaling


def test_bf16_runs_the_network_in_bfloat16_and_the_loss_in_float32(nnunet):
    trainer, plain = (make_trainer(nnunet, f"nnUNetTrainerSGD{suffix}_seed1") for suffix in ("_bf16", ""))
    for t in (trainer, plain):
        t.initialize()
    assert same(dict(trainer.network.state_dict()), dict(plain.network.state_dict()))
    inner = []
    trainer.network.encoder.stages[0].register_forward_hook(lambda m, i, o: inner.append(o.dtype))
    data = batch(nnunet)["data"]
    outputs, expected = trainer.network(data), plain.network(data)
    assert set(inner) == {torch.bfloat16}
    for output, reference in zip(outputs, expected, strict=True):
        assert output.dtype == torch.float32
        assert not torch.equal(output, reference)
        torch.testing.assert_close(output, reference, atol=0.05, rtol=0.05)
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network(data).dtype == torch.float32
    twin = copy.deepcopy(trainer.network)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert trainer.network(data).abs().sum() > 0 and twin(data).abs().sum() == 0
    for t in (trainer, plain):
        t.set_deep_supervision_enabled(True)
        t.on_train_epoch_start()
    losses = [t.train_step(batch(nnunet))["loss"] for t in (trainer, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())


def test_bf16_at_prediction(nnunet):
    """nnUNetv2_predict builds the network through the class, so it predicts as the validation did."""
    trainer = make_trainer(nnunet, "nnUNetTrainerSGD_bf16")
    trainer.initialize()
    built = type(trainer).build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3, False)
    built.load_state_dict(trainer.network.state_dict())
    trainer.set_deep_supervision_enabled(False)
    data = batch(nnunet)["data"]
    assert torch.equal(built(data), trainer.network(data))


def test_a_gradient_scaler_changes_nothing(nnunet):
    """Powers of two scale exactly, so the weights must be those without a scaler, bit for bit."""
    plain, scaled = (make_trainer(nnunet, "nnUNetTrainerCPR_ws2_seed1") for _ in range(2))
    scaled.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for trainer in (plain, scaled):
        trainer.initialize()
        trainer.on_train_epoch_start()
        for i in range(5):
            trainer.train_step(batch(nnunet, i))
    assert same(weights(plain), weights(scaled))
    assert [c.kappa for c in plain.optimizer.constraints()] == [c.kappa for c in scaled.optimizer.constraints()]


def test_a_step_that_the_scaler_skips_counts_for_nothing(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_ws2_seed1")
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.initialize()
    trainer.on_train_epoch_start()
    trainer.train_step(batch(nnunet, 0))
    before = weights(trainer)
    bad = batch(nnunet, 1)
    bad["data"][0, 0, 0, 0, 0] = math.inf
    trainer.train_step(bad)
    assert same(before, weights(trainer))
    trainer.train_step(batch(nnunet, 1))
    assert not any(c.bounded for c in trainer.optimizer.constraints())
    trainer.train_step(batch(nnunet, 2))
    assert sum(c.bounded for c in trainer.optimizer.constraints()) == 8


@pytest.mark.parametrize("suffix", ["", "_bf16"])
def test_compiled(nnunet, monkeypatch, suffix):
    """Same names, and a checkpoint that an uncompiled trainer goes on from."""
    name = f"nnUNetTrainerCPR_ws2_2epochs_2iters_seed1{suffix}"
    plain = trained(nnunet, name)
    compile_ = torch.compile
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda module: compile_(module, backend="eager"))
        patch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
        compiled = trained(nnunet, name)
        assert isinstance(compiled.network, torch._dynamo.OptimizedModule)
    assert [c.name for c in compiled.optimizer.constraints()] == [c.name for c in plain.optimizer.constraints()]
    assert {r.tensor for r in read_trace(f"{compiled.output_folder}/cpr_trace.csv")} == {
        c.name for c in plain.optimizer.constraints()
    }
    loaded = make_trainer(nnunet, name)
    loaded.load_checkpoint(f"{compiled.output_folder}/checkpoint_final.pth")
    assert same(weights(loaded), {k.removeprefix("_orig_mod."): v for k, v in weights(compiled).items()})
    assert loaded.optimizer.constraints() == compiled.optimizer.constraints()
    for ours, theirs in zip(loaded.optimizer.constraints(), plain.optimizer.constraints(), strict=True):
        assert ours.kappa == pytest.approx(theirs.kappa, rel=1e-3)


# nnU-Net's kinds of training

REGIONS = {"labels": {"background": 0, "whole": [1, 2], "posterior": 2}, "regions_class_order": [1, 2]}
IGNORE = {"labels": {"background": 0, "anterior": 1, "ignore": 2}}


def _load_case_with_annotated_voxels(self, case, load_case=nnUNetDatasetBlosc2.load_case):
    """Preprocessing for an ignore label also notes where voxels have any other label."""
    data, seg, previous, properties = load_case(self, case)
    properties["class_locations"][(-1, 0, 1)] = np.argwhere(seg[:] < 2)
    return data, seg, previous, properties


@pytest.mark.parametrize(
    ("configuration", "labels"), [("tiny_2d", {}), ("tiny", REGIONS), ("tiny", IGNORE)], ids=["2d", "regions", "ignore"]
)
def test_kinds_of_training(nnunet, configuration, labels, monkeypatch):
    if labels is IGNORE:
        monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", _load_case_with_annotated_voxels)
    trainer = trained(nnunet, "nnUNetTrainerCPR_ws2_2epochs_3iters", configuration=configuration,
                      dataset_json=nnunet.dataset_json | labels)  # fmt: skip
    assert np.isfinite(trainer.logger.get_value("train_losses", None)).all()
    assert sum(c.bounded for c in trainer.optimizer.constraints()) == 8
    assert trainer.label_manager.has_regions == (labels is REGIONS)
    assert trainer.label_manager.has_ignore_label == (labels is IGNORE)


def test_cascade(nnunet):
    """The second stage takes the first one's segmentations from the results of the trainer of the same name."""
    plans = copy.deepcopy(nnunet.plans)
    plans["configurations"]["tiny_low"] = {"inherits_from": "tiny", "next_stage": "tiny_next"}
    plans["configurations"]["tiny_next"] = {"inherits_from": "tiny", "previous_stage": "tiny_low"}
    name = "nnUNetTrainerCPR_ws2_2epochs_3iters"
    trainer = make_trainer(nnunet, name, configuration="tiny_next", plans=plans)
    first_stage = nnunet.results / f"{name}__nnUNetPlans__tiny_low" / "predicted_next_stage" / "tiny_next"
    assert trainer.folder_with_segs_from_previous_stage == str(first_stage)
    first_stage.mkdir(parents=True)
    trainer.initialize()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    for case in dataset.identifiers:
        _, seg, _, _ = dataset.load_case(case)
        trainer.dataset_class.save_seg(seg[0].astype(np.int8), str(first_stage / case))
    trainer.run_training()
    assert next(p for p in trainer.network.parameters() if p.ndim == 5).shape[1] == 3  # image and two one-hot labels
    assert np.isfinite(trainer.logger.get_value("train_losses", None)).all()
    assert sum(c.bounded for c in trainer.optimizer.constraints()) == 8


# two processes


def _ddp_rank(rank, world_size, nnunet, folder):
    trainer = ddp_trainer(nnunet, "nnUNetTrainerCPR_ki0.999_2epochs_3iters", rank, world_size, folder)
    torch.manual_seed(rank)  # different networks, until DDP makes them one
    trainer.run_training()
    constraints = [c._asdict() for c in trainer.optimizer.constraints()]
    with open(f"{folder}/rank{rank}.json", "w") as file:
        json.dump({"constraints": constraints, "trace": trainer._trace is not None, "out": trainer.output_folder}, file)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_same_bounds(nnunet, tmp_path):
    torch.multiprocessing.spawn(_ddp_rank, args=(2, nnunet, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["constraints"] == second["constraints"]
    assert all(math.isfinite(c["kappa"]) for c in first["constraints"])
    assert any(c["lagmul"] > 0 for c in first["constraints"])
    assert (first["trace"], second["trace"]) == (True, False)  # one of them writes
    assert len(read_trace(f"{first['out']}/cpr_trace.csv")) == 2 * 9
