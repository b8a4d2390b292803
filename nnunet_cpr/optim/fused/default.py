"""Decides whether a CPR optimizer uses torch's fused implementation where the user has not said so."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

_FLAGS = ("fused", "foreach", "differentiable")
_WHOLE = (Tensor, torch.nn.Parameter)
_SHARDED = (torch.optim.Adam,)  # torch's fused SGD and Adagrad have no rule for DTensors
_CPU_ONLY = (torch.optim.Adagrad,)


def fuse_by_default(optimizer: Optimizer, base: type[Optimizer], added: Sequence[dict[str, Any]]) -> None:
    """Set `fused` in all groups: True where every parameter allows it, else None, which is torch's own default.

    torch never chooses `fused` itself, only `foreach`. Its conditions are the same: all parameters count, however they
    were given. GradScaler still does its own check, because `_step_supports_amp_scaling` stays unset: other libraries
    refuse to clip gradients where an optimizer unscales them itself.

    Args:
        optimizer: whose groups are changed. `defaults["fused"]` is None while the choice is ours.
        base: the class whose step runs.
        added: the groups that are new. If one of them chooses for itself, the choice is the user's from now on.
    """
    defaults = optimizer.defaults
    if defaults.get("fused", False) is not None or defaults.get("foreach") or defaults.get("differentiable"):
        return
    if any(group.get(flag) for group in added for flag in _FLAGS) or any(g["fused"] is not None for g in added):
        defaults["fused"] = False
        return
    fused = _is_of_torch(base) and all(_can_fuse(group["params"], base) for group in optimizer.param_groups)
    set_fused(optimizer, fused or None)


def set_fused(optimizer: Optimizer, fused: bool | None) -> None:
    """Set `fused` in all groups, and put step counts where the fused implementation needs them."""
    for group in optimizer.param_groups:
        group["fused"] = fused
        for param in group["params"] if fused else ():
            step = optimizer.state[param].get("step") if param in optimizer.state else None
            if isinstance(step, Tensor):
                optimizer.state[param]["step"] = step.to(param.device, torch.float32)


def _is_of_torch(base: type[Optimizer]) -> bool:
    return f"{base.__module__}.".startswith("torch.optim.")


def _can_fuse(params: Iterable[Tensor], base: type[Optimizer]) -> bool:
    """Return whether torch's fused implementation takes all of a group's parameters."""
    devices = {"cpu"} if issubclass(base, _CPU_ONLY) else set(_get_fused_kernels_supported_devices())
    meshes = set()
    for param in params:
        sharded = hasattr(param, "placements")
        if not (sharded and issubclass(base, _SHARDED)) and type(param) not in _WHOLE:
            return False
        if param.device.type not in devices or not param.is_floating_point():
            return False
        meshes.add(getattr(param, "device_mesh", None))
    return len(meshes) <= 1  # DTensors cannot be mixed with others in one call
