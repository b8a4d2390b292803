"""Decides whether a CPR optimizer uses torch's fused implementation, and gives that what it needs.

On a CPU torch's fused optimizers go through memory in order, whatever the strides. So a gradient or a state laid out
differently from its weight, or a weight with gaps, gives wrong weights silently. Autograd makes gradients that fit.
Other code and loaded states may not. Before torch 2.14, fused SGD on a CPU also left most of a bfloat16 or float16
weight as it was (pytorch issue 191763).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

_WHOLE = (Tensor, torch.nn.Parameter)
_SHARDED = (torch.optim.Adam,)  # torch's fused SGD and Adagrad have no rule for DTensors
_CPU_ONLY = (torch.optim.Adagrad,)
_HALF = (torch.bfloat16, torch.float16)
_SGD_LEAVES_OUT_HALF = torch.__version__ < "2.14"


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
    if "fused" not in defaults or _is_decided(defaults):
        return
    if any(_is_decided(group) for group in added):
        defaults["fused"] = False
        return
    fused = is_of_torch(base) and all(_can_fuse(group["params"], base) for group in optimizer.param_groups)
    set_fused(optimizer, fused or None)


@_disable_dynamo
def check_fused(optimizer: Optimizer, group: Mapping[str, Any]) -> None:
    """Give up `fused` where it was our choice and would give wrong weights by now.

    Raises:
        ValueError: it was the user's choice.
    """
    wrong = next((reason for param in group["params"] if (reason := _goes_wrong(param, type(optimizer)))), None)
    if wrong and optimizer.defaults.get("fused", False) is None:
        set_fused(optimizer, None)
    elif wrong:
        raise ValueError(f"fused=True, but {wrong}")


def set_fused(optimizer: Optimizer, fused: bool | None) -> None:
    """Set `fused` in all groups, and put step counts where the fused implementation needs them."""
    for group in optimizer.param_groups:
        group["fused"] = fused
        for param in group["params"] if fused else ():
            step = optimizer.state[param].get("step") if param in optimizer.state else None
            if isinstance(step, Tensor):
                optimizer.state[param]["step"] = step.to(param.device, torch.float32)


@_disable_dynamo
@torch.no_grad()
def fit_gradients(params: Iterable[Tensor]) -> None:
    """Lay out gradients like their weights where they are not."""
    for param in params:
        gradient: Any = param.grad
        if not _fits(gradient, param):
            param.grad = torch.empty_like(param).copy_(gradient)


@_disable_dynamo
@torch.no_grad()
def fit_states(params: Iterable[Tensor], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """Lay out the states that have their weight's shape like it."""
    for param in params:
        for name, value in states.get(param, {}).items():
            if isinstance(value, Tensor) and value.shape == param.shape and not _fits(value, param):
                states[param][name] = torch.empty_like(param, dtype=value.dtype).copy_(value)


def apart_at_first_step(group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> list[dict[str, Any]]:
    """Split a group for torch's fused SGD, which takes tensors that have momentum, or tensors that have none yet.

    They are mixed where a tensor gets its first gradient later than others do, for instance because it was frozen.
    """
    if not (group.get("fused") and group.get("momentum")):
        return [group]
    parts: dict[bool, list[Tensor]] = {}
    for param in group["params"]:
        if param.grad is not None:
            parts.setdefault(states.get(param, {}).get("momentum_buffer") is None, []).append(param)
    return [{**group, "params": params} for params in parts.values()] if len(parts) > 1 else [group]


def _fits(tensor: Any, param: Tensor) -> bool:
    if tensor.is_contiguous() and param.is_contiguous():
        return True
    return hasattr(param, "placements") or tensor.stride() == param.stride()


def _goes_wrong(param: Tensor, optimizer_class: type[Optimizer]) -> str | None:
    """Return why torch's fused implementation would give a wrong weight and not say so, or None."""
    if param.device.type != "cpu":
        return None
    if _has_gaps(param):
        return (
            f"a weight of shape {tuple(param.shape)} has gaps in memory, which torch's fused optimizers on a CPU would "
            "not skip; use fused=False, or make the weight contiguous"
        )
    if _SGD_LEAVES_OUT_HALF and param.dtype in _HALF and issubclass(optimizer_class, torch.optim.SGD):
        dtype = str(param.dtype).removeprefix("torch.")
        return (
            f"a weight is {dtype}, and torch {torch.__version__}'s fused SGD on a CPU does not update such weights; "
            "use fused=False, or torch 2.14 or later"
        )
    return None


def _has_gaps(param: Tensor) -> bool:
    return not hasattr(param, "placements") and torch.empty_like(param, device="meta").stride() != param.stride()


def _is_decided(flags: Mapping[str, Any]) -> bool:
    """Return whether the user has chosen an implementation. As in torch, `foreach=False` asks for the loop."""
    return any(flags.get(name) is not None for name in ("fused", "foreach")) or bool(flags.get("differentiable"))


def is_of_torch(base: type[Optimizer]) -> bool:
    """Return whether a class is one of torch's own."""
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
        if _has_gaps(param) or _goes_wrong(param, base):
            return False
        meshes.add(getattr(param, "device_mesh", None))
    return len(meshes) <= 1  # DTensors cannot be mixed with others in one call
