"""What the trainers' tests share: running commands, tiny configurations, trainers as nnU-Net makes them."""

import os
import subprocess
import sys
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_module
import torch
import torch.distributed as dist
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunet_cpr.training.factory import trainer_class
from nnunet_cpr.training.trainer import NamedTrainer


def tiny(configuration: dict[str, Any], patch: list[int], features: list[int]) -> dict[str, Any]:
    """A configuration with a network of few stages and features, on the data of the given one."""
    architecture = deepcopy(configuration["architecture"])
    kwargs, n = architecture["arch_kwargs"], len(features)
    kwargs |= {"n_stages": n, "features_per_stage": features}
    kwargs |= {key: kwargs[key][:n] for key in ("kernel_sizes", "strides")}
    kwargs |= {"n_conv_per_stage": [1] * n, "n_conv_per_stage_decoder": [1] * (n - 1)}
    return {"batch_size": 2, "patch_size": patch, "architecture": architecture}


def run_command(
    *command: str, timeout: float = 300, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the environment's commands as a user does."""
    result = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def make_trainer(
    nnunet: SimpleNamespace, name: str, configuration: str = "tiny", resume: bool = False, **changes: Any
) -> NamedTrainer:
    """The trainer of that name on CPU, made as `nnUNetv2_train` makes it; `changes` are to plans or dataset_json."""
    plans = deepcopy(changes.get("plans", nnunet.plans)) | {"continue_training": resume}
    dataset_json = deepcopy(changes.get("dataset_json", nnunet.dataset_json))
    return trainer_class(name)(plans, configuration, 0, dataset_json, device=torch.device("cpu"))


def resumed(nnunet: SimpleNamespace, name: str) -> NamedTrainer:
    """The trainer of that name as `nnUNetv2_train --c` makes it, its checkpoint loaded."""
    trainer = make_trainer(nnunet, name, resume=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    return trainer


def ddp_trainer(
    nnunet: SimpleNamespace, name: str, rank: int, world_size: int, folder: str, resume: bool = False
) -> NamedTrainer:
    """One rank's trainer as nnU-Net's `run_ddp` makes it, with gloo on CPU instead of nccl on CUDA."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=2),
    )
    nnunet_module.DDP = lambda network, device_ids: torch.nn.parallel.DistributedDataParallel(network)
    trainer = make_trainer(nnunet, name, resume=resume)
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None  # nnU-Net takes CUDA for granted here
    trainer.plot_network_architecture = partial(print, "")
    return trainer


def weights(trainer: NamedTrainer) -> dict[str, torch.Tensor]:
    """A copy of the network's weights."""
    return {name: p.detach().clone() for name, p in trainer.network.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
