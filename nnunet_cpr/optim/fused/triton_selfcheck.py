"""Tries each variant of the Triton kernels against torch's own operators before it is used.

The kernels were written where there is no GPU, so nothing is taken for granted: what does not compile, fails or
disagrees is not used, and the reason goes to the log.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import STATES, TensorBatch

WIDE, NARROW = 16, 4
"""Bytes of which all addresses are multiples."""
_log = logging.getLogger(__name__)
_refused: set[torch.device] = set()
"""Devices where a variant failed. The others are not tried there."""


class Variant(NamedTuple):
    """What the kernels are compiled for."""

    update: str
    nesterov: bool
    guarded: bool
    """Whether GradScaler may ask for a step to be skipped."""
    scaled: bool
    """Whether gradients must still be divided by GradScaler's scale."""
    align: int


def is_refused(device: torch.device) -> bool:
    """Return whether a variant has failed on this device."""
    return device in _refused


@functools.cache
def works(variant: Variant, device: torch.device, new_cache: Callable[[], Any]) -> bool:
    """Return whether a variant compiles on a device and agrees with torch. The first call waits for the device.

    Args:
        variant: the kernels to try.
        device: where to try them.
        new_cache: makes the cache of the Triton backend.
    """
    # The user may have forbidden to wait for the device, but means the steps.
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        if mode:
            torch.cuda.set_sync_debug_mode(0)
        with torch.no_grad():
            agrees = _agrees_with_torch(variant, device, new_cache())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a driver, a compiler or Triton may raise
        _log.info("no Triton kernels, so torch's own operators are used: %s", error)
        _refused.add(device)
        return False
    finally:
        if mode:
            torch.cuda.set_sync_debug_mode(mode)
    if not agrees:
        _log.warning("%s on %s disagrees with torch and is not used; please report it", variant, device)
        _refused.add(device)
    return agrees


def _agrees_with_torch(variant: Variant, device: torch.device, cache: Any) -> bool:
    """Do one step of two tensors, one of them of two chunks, with the kernels and with torch's fused operators."""
    from nnunet_cpr.optim.fused import triton_kernels

    def tensors(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sizes = (5, triton_kernels.CHUNK + 3)
        values = [function(torch.linspace(-1, 1, size, dtype=torch.float32, device=device)) for size in sizes]
        return values if variant.align == WIDE else [torch.cat([x[:1], x])[1:] for x in values]

    def scalar(number: float) -> Tensor:
        return torch.full((), number, dtype=torch.float32, device=device)

    names = STATES[variant.update]
    params, gradients, *buffers = [tensors(f) for f in (torch.sin, torch.cos, *[torch.square for _ in names])]
    steps = [scalar(3) for _ in params]
    copies: list[Any] = [[tensor.clone() for tensor in row] for row in (params, gradients, *buffers, steps)]
    x, g, *b, t = copies
    scale = scalar(4) if variant.scaled else None
    if scale is not None:
        torch._foreach_mul_(gradients, scale)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "nesterov": variant.nesterov}
    group = {**options, "betas": (0.9, 0.99), "eps": 1e-8, "maximize": False}
    states = [dict(zip([*names, "step"], row, strict=True)) for row in zip(*buffers, steps, strict=True)]
    batch = TensorBatch(variant.update, group, params, gradients, states, scalar(0) if variant.guarded else None, scale)
    factors = torch.linspace(0.5, 1, 2, dtype=torch.float32, device=device)
    if not cache.bind(batch):
        return False
    cache.squared_norms(batch)
    cache.shrink_and_update(batch, factors)
    torch._foreach_mul_(x, list(factors.unbind()))
    if variant.update == "adam":
        torch._foreach_add_(t, 1)
        options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "amsgrad": False}
        torch._fused_adam_(x, g, b[0], b[1], [], t, weight_decay=0, maximize=False, **options)
    else:
        torch._fused_sgd_(x, g, b[0], weight_decay=0, maximize=False, is_first_step=False, **options)
    ours = [*params, *gradients, *[buffer for row in buffers for buffer in row], *steps, cache.squared_norms(batch)]
    theirs = [*x, *g, *[buffer for row in b for buffer in row], *t, torch.stack([y.square().sum() for y in x])]
    return all([torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ours, theirs, strict=True)])
