"""Where the tensors of a step lie in memory, and whether a kernel can take them from there."""

import operator
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import TensorBatch

T = TypeVar("T")
_TYPES = (Tensor, torch.nn.Parameter)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class MemoryLayout:
    """The weights and states of a step, and where they lie: one object until any of them is another, or has moved."""

    def __init__(self, work: TensorBatch, states: list[list[Tensor]]) -> None:
        self.owners = list(work.owners)
        self.sizes = [param.numel() for param in work.params]
        """Elements."""
        self.layouts = _layouts(work.params)
        self.weights = addresses(work.params)
        self.states = [addresses(row) for row in states]
        """By state, in the order of `STATES`; then Adam's steps."""
        self._states = list(chain(*states))
        self._prepared: tuple[Any, Any] = None, None

    def hold(self, work: TensorBatch, states: Sequence[Sequence[Any]]) -> bool:
        """Return whether these are the weights and states of a step."""
        return (
            same(self.owners, work.owners)
            and same(self._states, list(chain(*states)))
            and self.weights == addresses(work.params)
            and self.states == [addresses(row) for row in states]
            and self.layouts == _layouts(work.params)
        )

    def numbers_in(self, others: "MemoryLayout") -> list[int | None]:
        """Return which of the others each weight is, None where it is none of them, or lay elsewhere."""
        mine, theirs = (
            zip(map(id, places.owners), places.weights, places.sizes, strict=True) for places in (self, others)
        )
        numbers = {weight: number for number, weight in enumerate(theirs)}
        return [numbers.get(weight) for weight in mine]

    def prepared(
        self, prepare: Callable[[TensorBatch, Sequence[int]], T], work: TensorBatch, numbers: Sequence[int]
    ) -> T:
        """Return what `prepare` makes of these weights and states, done again only for other `numbers`."""
        wanted = prepare, numbers
        if self._prepared[0] != wanted:
            self._prepared = wanted, prepare(work, numbers)
        result: T = self._prepared[1]
        return result


def find(work: TensorBatch, device_type: str, last: MemoryLayout | None) -> MemoryLayout | None:
    """Return the places of a step's tensors, or None where kernels on this type of device cannot take them.

    All must be float32, on one device, without gaps, and each as its weights are. A state or gradient of another size
    (after loading another layer's, say) would be read past its end. Weights that share memory would be written twice.
    Weights and states are looked at thoroughly only where `last`, the places of an earlier step, do not hold them;
    gradients, which are new in each step, always.
    """
    states = [*work.buffers(), work.steps()]
    if last is None or not last.hold(work, states):
        if not _fit(work, device_type):
            return None
        last = MemoryLayout(work, states)
    fit = _float32(work.gradients, work.params[0].device) and _layouts(work.gradients) == last.layouts
    return last if fit else None


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Return where each tensor's memory begins."""
    return [tensor.data_ptr() for tensor in tensors]


def _fit(work: TensorBatch, device_type: str) -> bool:
    """Return whether weights and states are as :func:`find` says."""
    params, device = work.params, work.params[0].device
    return (
        device.type == device_type
        and _float32(params, device)
        and all(map(_without_gaps, params))
        and not _overlap(params)
        and all([_float32(row, device) and _layouts(row) == _layouts(params) for row in work.buffers()])
        and _float32(work.steps(), device)
    )


def _overlap(params: Sequence[Tensor]) -> bool:
    ranges = sorted([(param.data_ptr(), param.data_ptr() + param.nbytes) for param in params if param.numel()])
    return any([start < end for (_, end), (start, _) in pairwise(ranges)])


def _float32(tensors: Sequence[Any], device: torch.device) -> bool:
    return all(
        [
            type(tensor) in _TYPES
            and tensor.dtype is torch.float32
            and tensor.device == device
            and tensor.layout is torch.strided
            for tensor in tensors
        ]
    )


def _layouts(tensors: Sequence[Tensor]) -> list[Any]:
    return [(tensor.shape, tensor.stride()) for tensor in tensors]


def _without_gaps(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    memory_format = _FORMATS.get(tensor.ndim)
    return memory_format is not None and tensor.is_contiguous(memory_format=memory_format)


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not equal ones."""
    return len(some) == len(others) and all(map(operator.is_, some, others))
