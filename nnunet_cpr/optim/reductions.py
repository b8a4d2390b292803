"""Accurate sums over many tensors, whole or sharded, without a full-size temporary.

torch is imported inside the functions: regularizers.py imports this module, and programs that only parse arguments read
the names of regularizers from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# On CPU torch accumulates a float32 norm in a few lanes, which loses up to 5e-3 on tens of millions of elements. Rows
# of this length keep the relative error below 1e-6, run at memory speed, and do not depend on the number of threads.
ROW = 2048
BLOCK = 64 * ROW


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of R, kappa and lambda for weights of `dtype`: float64 for float64, otherwise float32."""
    import torch

    return torch.float64 if dtype == torch.float64 else torch.float32


def local(param: Tensor) -> Tensor:
    """Return this rank's part of a DTensor (FSDP2, tensor parallel), and any other tensor as it is."""
    return param.to_local() if hasattr(param, "to_local") else param


def power_sums(params: Sequence[Tensor], power: int) -> Tensor:
    """Return sum(|x| ** power) of each local tensor, shape (len(params),), for power 1 or 2."""
    import torch

    dtype = accumulation_dtype(params[0].dtype)
    if params[0].device.type == "cpu":
        sums = [_rowwise_power_sum(param, power, dtype) for param in params]
    else:
        norms = torch._foreach_norm(list(params), power, dtype=dtype)
        sums = [norm**power for norm in norms]
    return torch.stack(sums)


def over_shards(values: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Add `values` over the ranks among which `params` are sharded, in one collective a mesh dimension.

    `params` share one device mesh and placement. Plain tensors: `values` as they are.
    """
    import torch

    first: Any = params[0]
    if hasattr(first, "device_mesh"):
        for dim, placement in enumerate(first.placements):
            # FSDP2 over tensor parallel shards one dimension twice, by a placement whose `is_shard()` is False.
            if not placement.is_replicate():
                torch.distributed.all_reduce(values, group=first.device_mesh.get_group(dim))
    return values


def times(values: Tensor, factors: Sequence[float]) -> Tensor:
    """Multiply `values`, shape (len(factors),), by numbers of the host without copying these to the device."""
    import torch

    if values.device.type == "cpu":
        return values * torch.tensor(factors, dtype=values.dtype, device="cpu")
    return torch.stack(torch._foreach_mul(list(values.unbind()), list(factors)))


def each(function: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Return `function` of each tensor, a scalar in its accumulation dtype, stacked to shape (len(tensors),)."""
    import torch

    return torch.stack([function(tensor.to(accumulation_dtype(tensor.dtype))) for tensor in tensors])


def scale_(tensors: Sequence[Tensor], factors: Tensor) -> None:
    """Multiply each tensor in place by its factor, of shape (len(tensors),), in the precision of the factors."""
    import torch

    shaped = [_full_precision(factor, x) for factor, x in zip(factors.unbind(), tensors, strict=True)]
    torch._foreach_mul_(list(tensors), shaped)


def _full_precision(factor: Tensor, tensor: Tensor) -> Tensor:
    """Shape a scalar so that `tensor * factor` is computed in the factor's dtype also for bf16 and fp16 tensors.

    On CPU a 0-dimensional factor is; elsewhere it would be rounded to the tensor's dtype before the multiplication.
    """
    return factor if tensor.device.type == "cpu" else factor.view((1,) * tensor.ndim)


def _rowwise_power_sum(param: Tensor, power: int, dtype: torch.dtype) -> Tensor:
    import torch

    flat = _flat(param)
    whole = flat.numel() // ROW * ROW
    # For another dtype vector_norm copies its input, so that goes a block at a time.
    blocks = [flat[:whole]] if flat.dtype == dtype else list(torch.split(flat[:whole], BLOCK))
    norms = [torch.linalg.vector_norm(block.view(-1, ROW), power, dim=1, dtype=dtype) for block in blocks]
    if whole < flat.numel():
        norms.append(torch.linalg.vector_norm(flat[whole:], power, dtype=dtype).view(1))
    return (norms[0] if len(norms) == 1 else torch.cat(norms)).pow(power).sum()


def _flat(tensor: Tensor) -> Tensor:
    """Return all elements in one dimension, in memory order: channels_last and transposed weights need no copy."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True)).reshape(-1)
