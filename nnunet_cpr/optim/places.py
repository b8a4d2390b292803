"""Where the tensors of a step lie in memory, and whether a kernel can take them from there."""

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.one_pass import Work

_TYPES = (Tensor, torch.nn.Parameter)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Places:
    """The addresses of weights, gradients and states.

    Weights and states are looked at thoroughly only when one is another tensor than in the last step, or has moved;
    gradients, which are new in each step, always.
    """

    def __init__(self) -> None:
        self.changes = 0
        """How often weights and states were other ones."""
        self.owners: list[Tensor] = []
        self.sizes: list[int] = []
        """Elements."""
        self.weights: list[int] = []
        self.gradients: list[int] = []
        self.states: list[list[int]] = []
        """By state, in the order of `STATES`; then Adam's steps."""
        self.cut: Any = None
        """What :mod:`in_cache` has made of weights and states; None when they have changed."""
        self._states: list[list[Tensor]] = []
        self._layouts: list[Any] = []

    def take(self, work: Work, device_type: str) -> bool:
        """Take the tensors of a step; return whether they are such as kernels on this type of device handle.

        All are float32, on one device, without gaps, and each as its weights are. A state or gradient of another size
        (after loading another layer's, say) would be read past its end. Weights that share memory would be written
        twice.
        """
        params, device = work.params, work.params[0].device
        states = [*work.buffers(), work.steps()]
        if not self._settled(work, states):
            if not _fit(work, device_type):
                return False
            self.owners, self._states, self._layouts = list(work.owners), states, _layouts(params)
            self.sizes = [param.numel() for param in params]
            self.weights, self.states = _addresses(params), [_addresses(row) for row in states]
            self.changes += 1
            self.cut = None
        if not (_float32(work.gradients, device) and _layouts(work.gradients) == self._layouts):
            return False
        self.gradients = _addresses(work.gradients)
        return True

    def _settled(self, work: Work, states: Sequence[Sequence[Any]]) -> bool:
        return (
            same(self.owners, work.owners)
            and same(list(chain(*self._states)), list(chain(*states)))
            and self.weights == _addresses(work.params)
            and self.states == [_addresses(row) for row in states]
            and self._layouts == _layouts(work.params)
        )


def _fit(work: Work, device_type: str) -> bool:
    """Return whether weights and states are as :meth:`Places.take` says."""
    params, device = work.params, work.params[0].device
    places = [param.data_ptr() for param in params if param.numel()]
    return (
        device.type == device_type
        and _float32(params, device)
        and all(map(_without_gaps, params))
        and len(set(places)) == len(places)
        and all([_float32(row, device) and _layouts(row) == _layouts(params) for row in work.buffers()])
        and _float32(work.steps(), device)
    )


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


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _without_gaps(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    memory_format = _FORMATS.get(tensor.ndim)
    return memory_format is not None and tensor.is_contiguous(memory_format=memory_format)


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not equal ones."""
    return len(some) == len(others) and all(map(operator.is_, some, others))
