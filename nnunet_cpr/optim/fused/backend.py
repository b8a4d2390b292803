"""What the ways to do the constraint step and the optimizer's update in one pass over memory have in common.

Such a way is a module with `covers`, `value` and `step`, see :class:`Backend`. Where none covers the tensors at hand,
the plain path does R, the constraint step and the base optimizer's step one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nnunet_cpr.optim.reductions import local

if TYPE_CHECKING:
    from nnunet_cpr.optim.stacked_state import StackedState

STATES: dict[str, tuple[str, ...]] = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each update keeps for a tensor and is of its size; Adam counts its steps in `step`, too."""


class TensorBatch(NamedTuple):
    """Tensors alike that are to be constrained and updated, all of which have a gradient."""

    update: str
    """The base optimizer's update: "adam", "sgd", or nothing for any other."""
    group: Mapping[str, Any]
    params: Sequence[Tensor]
    gradients: Sequence[Any]
    states: Sequence[dict[str, Tensor]]
    found_inf: Tensor | None = None
    """Of GradScaler: above 0 where the step is to be skipped."""
    grad_scale: Tensor | None = None
    """Of GradScaler: what gradients are still to be divided by."""
    wholes: Sequence[Tensor] | None = None
    """The DTensors whose local parts `params` are."""

    @property
    def owners(self) -> Sequence[Tensor]:
        """The optimizer's own tensors, which stay the same objects; a DTensor's local part may be a new one each time.

        Only of these does torch count changes made to DTensors.
        """
        return self.params if self.wholes is None else self.wholes

    def buffers(self) -> list[list[Any]]:
        """Return the values of the states that have the tensors' sizes, None where a state lacks one."""
        return [[state.get(name) for state in self.states] for name in STATES[self.update]]

    def steps(self) -> list[Any]:
        """Return the step counts of Adam."""
        return [state.get("step") for state in self.states] if self.update == "adam" else []

    def versions(self) -> list[int]:
        """Return numbers that grow with each change of the weights that torch counts."""
        if self.wholes is None:
            return [param._version for param in self.params]
        return [whole._version + part._version for whole, part in zip(self.wholes, self.params, strict=True)]

    def count_changes(self, numbers: Iterable[int]) -> None:
        """Count a change of these weights, made past torch: autograd must notice if a graph wanted the old ones."""
        rows = [self.params] if self.wholes is None else [self.params, self.wholes]
        torch.autograd.graph.increment_version([row[number] for row in rows for number in numbers])


class Backend(Protocol):
    """A way to do the constraint step of l2 and the update in one pass."""

    def covers(self, work: TensorBatch, kept: "StackedState") -> bool:
        """Return whether it can be used."""

    def value(self, work: TensorBatch, kept: "StackedState") -> Tensor:
        """Return R of each tensor: shape (len(params),), float32."""

    def step(self, work: TensorBatch, kept: "StackedState", keep: Tensor, kappa: Tensor) -> Sequence[int]:
        """Multiply tensors by their `keep` and update them, state included; both of shape (len(params),), float32.

        Returns the numbers of those for which it did; the others, whose `keep` is 1, are left to the base optimizer.
        """


def could_cover(work: TensorBatch) -> bool:
    """Return whether one of these ways might cover it: l2, fused, float32, Adam or SGD."""
    group = work.group
    return (
        work.update in STATES
        and bool(group.get("fused"))
        and group["reg_function"] == "l2"
        and work.params[0].dtype is torch.float32
        and not group.get("amsgrad")
        # Without momentum torch neither reads nor writes the buffer.
        and not (work.update == "sgd" and group["momentum"] == 0)
        and not torch.compiler.is_compiling()
    )


def local_parts(work: TensorBatch) -> TensorBatch:
    """Return the work on this rank's parts of DTensors (FSDP2, tensor parallel); of other tensors it is as it was.

    So it is where a gradient or a state is not sharded as its weights are. To be called under `no_grad`.
    """
    if not hasattr(work.params[0], "placements"):
        return work
    whole = [work.params, work.gradients, *work.buffers()]
    shardings = {(getattr(x, "device_mesh", None), getattr(x, "placements", None)) for row in whole for x in row}
    if len(shardings) > 1:
        return work
    params, gradients, *buffers = [[local(x) for x in row] for row in whole]
    names = STATES[work.update]
    states = [
        {**state, **dict(zip(names, parts, strict=True))} for state, *parts in zip(work.states, *buffers, strict=True)
    ]
    return work._replace(params=params, gradients=gradients, states=states, wholes=work.params)


def recorded() -> bool:
    """Return whether this step is compiled or captured, and will be done again with the states of now."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
