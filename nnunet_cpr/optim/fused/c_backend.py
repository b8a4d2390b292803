"""The CPU backend: plain C, called through ctypes, on torch's own threads. See `c_kernels.c` and `c_build.py`."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.fused import c_build
from nnunet_cpr.optim.fused.backend import TensorBatch
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout, addresses
from nnunet_cpr.optim.fused.norm_cache import NormCache

new_cache = NormCache


def why_not(params: Sequence[Tensor]) -> str | None:
    """Return in a few words why this backend cannot run; None if it can."""
    devices = {param.device.type for param in params}
    return f"the parameters are on {', '.join(sorted(devices))}" if devices != {"cpu"} else c_build.why_not()


def covers(batch: TensorBatch, cache: NormCache) -> bool:
    """Bind the cache to a batch; return whether the kernels can handle it."""
    on_cpu = batch.params[0].device.type == "cpu"
    return on_cpu and batch.found_inf is None and c_build.kernels() is not None and cache.bind(batch)


def squared_norms(batch: TensorBatch, cache: NormCache) -> Tensor:
    """Return R of each tensor. Only what no step before has added up is read."""
    return cache.squared_norms(batch, read_squared_norms)


def shrink_and_update(batch: TensorBatch, cache: NormCache, factors: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update the tensors whose bound is set; return their indices."""
    return cache.shrink_and_update(batch, factors, kappa, run_update)


def read_squared_norms(params: Sequence[Tensor]) -> Tensor:
    """Return sum(theta^2) of each tensor: shape (len(params),), float64."""
    sums = torch.empty(len(params), dtype=torch.float64, device="cpu")
    _call("square_sums", len(params), _sizes(params), _pointers(params), _pointer(sums))
    return sums


def run_update(batch: TensorBatch, layout: MemoryLayout, indices: Sequence[int], factors: Sequence[float]) -> Tensor:
    """Multiply these tensors by their factors and do the optimizer's update, states included, in one pass.

    Returns:
        Their sums of squares after it, bit for bit what :func:`read_squared_norms` would return: shape
        (len(indices),), float64.
    """
    group = batch.group
    sizes, weights, *states = layout.prepared(_arguments, batch, indices)
    gradients = _pointers([batch.gradients[index] for index in indices])
    lr = ctypes.c_double(float(group["lr"]))
    if batch.update == "adam":
        beta1, beta2 = (ctypes.c_double(float(beta)) for beta in group["betas"])
        options = [lr, beta1, beta2, ctypes.c_double(group["eps"]), int(group["maximize"])]
    else:
        values = [ctypes.c_double(group[name]) for name in ("momentum", "dampening")]
        options = [lr, *values, int(group["nesterov"]), int(group["maximize"])]
    shrink = (ctypes.c_float * len(indices))(*[factors[index] for index in indices])
    sums = torch.empty(len(indices), dtype=torch.float64, device="cpu")
    _call(batch.update, len(indices), sizes, weights, gradients, shrink, _pointer(sums), *states, *options)
    batch.count_changes(indices)
    return sums


def _call(function: str, count: int, *arguments: Any) -> None:
    if getattr(c_build.kernels(), function)(ctypes.c_int64(count), *arguments):
        raise MemoryError("no memory for the partial sums of R")


def _arguments(batch: TensorBatch, indices: Sequence[int]) -> list[ctypes.Array[Any]]:
    """Return the sizes of these weights, and the addresses of weights and states."""
    params, *states = [
        [row[index] for index in indices] for row in (batch.params, *batch.buffers(), batch.steps()) if row
    ]
    return [_sizes(params), _pointers(params), *map(_pointers, states)]


def _sizes(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_void_p * len(tensors))(*addresses(tensors))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
