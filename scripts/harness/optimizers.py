"""The optimizer that the settings name, over a model's parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.rivals import RIVALS
from harness.settings import Settings
from nnunet_cpr.optim import SGDCPR, AdamCPR, param_groups

Groups = list[dict[str, Any]]


def adamc(groups: Groups, lr: float, **options: Any) -> torch.optim.Optimizer:
    """AdamW whose decay falls with the square of the learning rate, from its peak `lr` (Defazio 2025); timm's."""
    from timm.optim.adamw import AdamWLegacy

    return AdamWLegacy(groups, lr=lr, corrected_weight_decay=True, **options)


def amos(groups: Groups, lr: float, **options: Any) -> torch.optim.Optimizer:
    """Amos, whose decay comes from the scale that weights should have (Tian and Parikh 2022); pytorch_optimizer's.

    It decays every tensor, biases, normalization weights and embeddings included.
    """
    try:
        from pytorch_optimizer import Amos
    except ImportError:
        raise ValueError("--optimizer amos needs pytorch_optimizer: pip install 'pytorch_optimizer>=4.1'") from None
    return Amos(groups, lr=lr, **options)


CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamcpr": AdamCPR,
    "sgd": torch.optim.SGD,
    "sgdcpr": SGDCPR,
    "adamc": adamc,
    "amos": amos,
    **RIVALS,
}


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer, fused. Weight decay acts on exactly the tensors that CPR regularizes, but for `amos`.

    These are all but biases, normalization weights, vectors and, unless `reg_embedding`, embeddings.
    """
    groups = param_groups(model, reg_embedding=settings.reg_embedding)
    options = settings.optimizer_options()
    weight_decay = options.pop("weight_decay", 0.0)
    if settings.optimizer == "initialnorm":
        weight_decay = 1.0
    if settings.optimizer == "scheduled":
        options["total_steps"] = settings.max_steps
    if "cpr" not in settings.optimizer:
        groups = [{"params": g["params"], "weight_decay": weight_decay if g["regularize"] else 0.0} for g in groups]
    if settings.optimizer in ("adam", "adamw", "sgd", *RIVALS):
        options["fused"] = True  # as CPR's are by default
    return CLASSES[settings.optimizer](groups, lr=settings.lr, **options)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate in all groups from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
