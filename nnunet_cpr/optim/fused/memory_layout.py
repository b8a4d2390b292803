"""Where the tensors of a batch lie in memory, and whether a kernel can take them from there."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import TensorBatch
from nnunet_cpr.optim.stacked_state import same_objects

T = TypeVar("T")
_TYPES = (Tensor, torch.nn.Parameter)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class MemoryLayout:
    """Addresses, sizes and strides of a batch's weights and states.

    The same MemoryLayout is reused until a tensor is replaced or moves, so looking thoroughly is paid for once.
    """

    def __init__(self, batch: TensorBatch, states: list[list[Tensor]]) -> None:
        self.owners = list(batch.owners)
        self.sizes = [param.numel() for param in batch.params]
        """Element counts."""
        self.strides = _strides(batch.params)
        self.weights = addresses(batch.params)
        self.states = [addresses(row) for row in states]
        """Addresses, one list a state in the order of `STATES`; then those of Adam's steps."""
        self._states = list(chain(*states))
        self._prepared: tuple[Any, Any] = None, None

    def matches(self, batch: TensorBatch, states: Sequence[Sequence[Any]]) -> bool:
        """Return whether a batch has these very weights and states, where they were."""
        return (
            same_objects(self.owners, batch.owners)
            and same_objects(self._states, list(chain(*states)))
            and self.weights == addresses(batch.params)
            and self.states == [addresses(row) for row in states]
            and self.strides == _strides(batch.params)
        )

    def indices_in(self, other: "MemoryLayout") -> list[int | None]:
        """Return the index that each weight has in another layout; None where it is not there, or lay elsewhere."""
        mine, theirs = (
            zip(map(id, layout.owners), layout.weights, layout.sizes, strict=True) for layout in (self, other)
        )
        indices = {weight: index for index, weight in enumerate(theirs)}
        return [indices.get(weight) for weight in mine]

    def prepared(
        self, prepare: Callable[[TensorBatch, Sequence[int]], T], batch: TensorBatch, indices: Sequence[int]
    ) -> T:
        """Return `prepare(batch, indices)`, computed again only for other indices."""
        wanted = prepare, indices
        if self._prepared[0] != wanted:
            self._prepared = wanted, prepare(batch, indices)
        result: T = self._prepared[1]
        return result


def find_layout(batch: TensorBatch, device_type: str, last: MemoryLayout | None) -> MemoryLayout | None:
    """Return the layout of a batch, or None where kernels on this type of device cannot take it.

    All tensors must be float32, on one device, without gaps, and every gradient and state laid out like its weight: one
    of another size (after loading another layer's state, say) would be read past its end. Weights that share memory
    would be written twice. Gradients are new in each step and always checked; weights and states only where `last`,
    the layout of an earlier step, does not match.
    """
    states = [*batch.buffers(), batch.steps()]
    if last is None or not last.matches(batch, states):
        if not _fits(batch, device_type):
            return None
        last = MemoryLayout(batch, states)
    fits = _all_float32(batch.gradients, batch.params[0].device) and _strides(batch.gradients) == last.strides
    return last if fits else None


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Return the address of each tensor's first element."""
    return [tensor.data_ptr() for tensor in tensors]


def _fits(batch: TensorBatch, device_type: str) -> bool:
    params, device = batch.params, batch.params[0].device
    return (
        device.type == device_type
        and _all_float32(params, device)
        and all(map(_has_no_gaps, params))
        and not _overlap(params)
        and all([_all_float32(row, device) and _strides(row) == _strides(params) for row in batch.buffers()])
        and _all_float32(batch.steps(), device)
    )


def _overlap(params: Sequence[Tensor]) -> bool:
    ranges = sorted([(param.data_ptr(), param.data_ptr() + param.nbytes) for param in params if param.numel()])
    return any([start < end for (_, end), (start, _) in pairwise(ranges)])


def _all_float32(tensors: Sequence[Any], device: torch.device) -> bool:
    return all(
        [
            type(tensor) in _TYPES
            and tensor.dtype is torch.float32
            and tensor.device == device
            and tensor.layout is torch.strided
            for tensor in tensors
        ]
    )


def _strides(tensors: Sequence[Tensor]) -> list[Any]:
    return [(tensor.shape, tensor.stride()) for tensor in tensors]


def _has_no_gaps(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    memory_format = _FORMATS.get(tensor.ndim)
    return memory_format is not None and tensor.is_contiguous(memory_format=memory_format)
