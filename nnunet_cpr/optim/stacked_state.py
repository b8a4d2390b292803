"""Groups tensors by device, dtype and sharding, and stacks their scalar state so that one operator updates all."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values

Kind = tuple[Any, ...]
_WHOLE = (Tensor, torch.nn.Parameter)


def group_by_kind(params: Iterable[Tensor]) -> dict[Kind, list[Tensor]]:
    """Return the tensors that can be updated together: those of one device, dtype and sharding."""
    kinds: dict[Kind, list[Tensor]] = {}
    for param in params:
        kind: Kind = (param.device, param.dtype)
        if type(param) not in _WHOLE:
            kind += (getattr(param, "device_mesh", None), getattr(param, "placements", None))
        kinds.setdefault(kind, []).append(param)
    return kinds


class StackedState:
    """The CPR state of the tensors of one group and kind, as one vector a value.

    The state of a tensor is made of scalars. Here they are elements of a vector, and the optimizer's state holds views
    of it, so that nothing is gathered and scattered at each step. If somebody puts another scalar into a state, the
    vector is gathered anew.
    """

    def __init__(self) -> None:
        self._vectors: dict[str, tuple[Sequence[Tensor], Tensor]] = {}
        self.caches: dict[str, Any] = {}
        """What each backend remembers of these tensors."""

    def forget(self) -> None:
        """Drop what backends remember. After a step without them it would keep old weights and states alive."""
        self.caches.clear()

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
        if vector is not None and same_objects(scalars, views):
            return vector
        # A CPU's scalars may belong to tensors elsewhere: ZeroRedundancyOptimizer loads them so.
        vector = torch.stack([scalar.to(device) for scalar in scalars])
        if not _is_recorded():
            views = vector.unbind()
            self._vectors[name] = (views, vector)
            for state, view in zip(states, views, strict=True):
                state[name] = view
        return vector


class StepCache:
    """What an optimizer keeps between steps besides its state. Copies and resumed optimizers start without it."""

    def __init__(self) -> None:
        self.checked: dict[int, list[Any]] = {}
        """The objects of each group that were checked last, by the group's index."""
        self.layouts: dict[int, list[Any]] = {}
        """Strides, dtypes and devices of each group's weights when they were last checked, by the group's index."""
        self.stacked: dict[tuple[int, Kind], StackedState] = {}
        """By the group's index and the kind of tensor."""

    def stacked_state(self, index: int, kind: Kind, groups: Sequence[dict[str, Any]]) -> StackedState:
        """Return the stacked state of a group's tensors of one kind. A new kind drops those that no group has."""
        if (index, kind) not in self.stacked:
            present = {(i, k) for i, group in enumerate(groups) for k in group_by_kind(group["params"])}
            self.stacked = {key: stacked for key, stacked in self.stacked.items() if key in present}
            self.stacked[index, kind] = StackedState()
        return self.stacked[index, kind]


def same_objects(first: Sequence[object], second: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not just equal ones."""
    return len(first) == len(second) and all(map(operator.is_, first, second))


def _is_recorded() -> bool:
    """Return whether this step is compiled or captured, and will run again with the states of now."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
