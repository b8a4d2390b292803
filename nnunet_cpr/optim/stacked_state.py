"""Tensors that are handled at once, and what is kept of them between steps beside the optimizer's state."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values
from nnunet_cpr.optim.fused.backend import recorded
from nnunet_cpr.optim.fused.memory_layout import same
from nnunet_cpr.optim.fused.norm_cache import NormCache
from nnunet_cpr.optim.fused.triton_backend import Chunks

Kind = tuple[Any, ...]
_WHOLE = (Tensor, torch.nn.Parameter)


def by_kind(params: Iterable[Tensor]) -> dict[Kind, list[Tensor]]:
    """Return the tensors that can be handled at once: those of one device, dtype and sharding."""
    kinds: dict[Kind, list[Tensor]] = {}
    for param in params:
        kind: Kind = (param.device, param.dtype)
        if type(param) not in _WHOLE:
            kind += (getattr(param, "device_mesh", None), getattr(param, "placements", None))
        kinds.setdefault(kind, []).append(param)
    return kinds


class StackedState:
    """What is kept between steps of a group's tensors of one kind. Copies and resumed optimizers begin without it.

    The state of a tensor is made of scalars. Here they are elements of one vector a value, whose views the states hold,
    so that nothing is gathered and scattered at each step. Whoever puts another scalar into a state has it gathered.
    """

    def __init__(self) -> None:
        self._vectors: dict[str, tuple[Sequence[Tensor], Tensor]] = {}
        self.forget()

    def forget(self) -> None:
        """Drop what the ways of one pass keep: where none covers a step, it may be weights and states of old."""
        self.sums, self.chunks = NormCache(), Chunks()

    def gather(self, states: Sequence[dict[str, Tensor]], names: Iterable[str], device: torch.device) -> Values:
        """Return each value of all states: shape (len(states),)."""
        return {name: self._gather(states, name, device) for name in names}

    def scatter(self, states: Sequence[Mapping[str, Tensor]], old: Values, new: Values) -> None:
        """Write new values to the states, of which :meth:`gather` has returned the old ones."""
        for name, value in new.items():
            if value is old[name]:
                continue
            if self._vectors.get(name, (None, None))[1] is old[name]:
                old[name].copy_(value)
            else:
                torch._foreach_copy_([state[name] for state in states], list(value.unbind()))

    def _gather(self, states: Sequence[dict[str, Tensor]], name: str, device: torch.device) -> Tensor:
        scalars = [state[name] for state in states]
        views, vector = self._vectors.get(name, ((), None))
        if vector is not None and same(scalars, views):
            return vector
        # A CPU's scalars may belong to tensors elsewhere: ZeroRedundancyOptimizer loads them so.
        vector = torch.stack([scalar.to(device) for scalar in scalars])
        if not recorded():
            views = vector.unbind()
            self._vectors[name] = (views, vector)
            for state, view in zip(states, views, strict=True):
                state[name] = view
        return vector
