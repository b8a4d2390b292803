"""The interface between CPR and its kernels, which do constraint and update in one pass over memory.

A backend is a module with the functions of :class:`Backend`. Where no backend covers the tensors at hand, the optimizer
computes R, the constraint step and the base optimizer's step one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nnunet_cpr.optim.reductions import local

STATES: dict[str, tuple[str, ...]] = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""The states of each update that have the size of their tensor. Adam also counts its steps in `step`."""


class TensorBatch(NamedTuple):
    """Tensors of one device, dtype and sharding that are constrained and updated together. All have a gradient."""

    update: str
    """The base optimizer's update: "adam", "sgd", or "" for any other."""
    group: Mapping[str, Any]
    params: Sequence[Tensor]
    gradients: Sequence[Any]
    states: Sequence[dict[str, Tensor]]
    found_inf: Tensor | None = None
    """Set by GradScaler: above 0 where the step must be skipped."""
    grad_scale: Tensor | None = None
    """GradScaler's loss scale, not yet divided out."""
    wholes: Sequence[Tensor] | None = None
    """The DTensors whose local parts `params` are."""

    @property
    def owners(self) -> Sequence[Tensor]:
        """The optimizer's own tensors. They stay the same objects, while a DTensor's local part may be replaced."""
        return self.params if self.wholes is None else self.wholes

    def buffers(self) -> list[list[Any]]:
        """Return the states that have their tensor's size, one list a state name. A missing one is None."""
        return [[state.get(name) for state in self.states] for name in STATES[self.update]]

    def steps(self) -> list[Any]:
        """Return Adam's step counts; an empty list for SGD."""
        return [state.get("step") for state in self.states] if self.update == "adam" else []

    def versions(self) -> list[int]:
        """Return one number a tensor that grows with every change of it that torch counts."""
        if self.wholes is None:
            return [param._version for param in self.params]
        return [whole._version + part._version for whole, part in zip(self.wholes, self.params, strict=True)]

    def count_changes(self, indices: Iterable[int]) -> None:
        """Tell autograd that a kernel changed these weights: a graph that needs the old ones must notice."""
        rows = [self.params] if self.wholes is None else [self.params, self.wholes]
        torch.autograd.graph.increment_version([row[index] for row in rows for index in indices])


class Backend(Protocol):
    """Kernels for l2: R, the constraint step and the update. A cache is one batch's memory between steps."""

    def why_not(self, params: Sequence[Tensor]) -> str | None:
        """Return in a few words why these kernels cannot run here or on these parameters; None if they can."""

    def new_cache(self) -> Any:
        """Return an empty cache for the batches of one group and kind of tensor."""

    def covers(self, batch: TensorBatch, cache: Any) -> bool:
        """Bind the cache to a batch; return whether the kernels can handle it."""

    def squared_norms(self, batch: TensorBatch, cache: Any) -> Tensor:
        """Return R = sum(theta^2) of each tensor: shape (len(batch.params),), float32."""

    def shrink_and_update(self, batch: TensorBatch, cache: Any, factors: Tensor, kappa: Tensor) -> Sequence[int]:
        """Multiply tensors by their factor and update them, states included.

        Args:
            batch: the tensors that `covers` has bound.
            cache: theirs.
            factors: what each tensor is multiplied by, shape (len(batch.params),), float32.
            kappa: their bounds, of the same shape.

        Returns:
            The indices of the tensors that were updated. The others, whose factor is 1, take the base optimizer's step.
        """


def could_cover(batch: TensorBatch) -> bool:
    """Return whether any backend might cover a batch: l2, fused, float32, Adam or SGD with momentum, not compiled."""
    group = batch.group
    return (
        batch.update in STATES
        and bool(group.get("fused"))
        and group["reg_function"] == "l2"
        and batch.params[0].dtype is torch.float32
        and not group.get("amsgrad")
        # Without momentum torch neither reads nor writes the buffer.
        and not (batch.update == "sgd" and group["momentum"] == 0)
        and not torch.compiler.is_compiling()
    )


def local_parts(batch: TensorBatch) -> TensorBatch:
    """Return the batch of this rank's parts of DTensors (FSDP2, tensor parallel); any other batch as it is.

    A batch whose gradients or states are not sharded like their weights is returned as it is, too, and no backend
    covers it. Call this under `no_grad`.
    """
    if not hasattr(batch.params[0], "placements"):
        return batch
    whole = [batch.params, batch.gradients, *batch.buffers()]
    shardings = {(getattr(x, "device_mesh", None), getattr(x, "placements", None)) for row in whole for x in row}
    if len(shardings) > 1:
        return batch
    params, gradients, *buffers = [[local(x) for x in row] for row in whole]
    names = STATES[batch.update]
    states = [
        {**state, **dict(zip(names, parts, strict=True))} for state, *parts in zip(batch.states, *buffers, strict=True)
    ]
    return batch._replace(params=params, gradients=gradients, states=states, wholes=batch.params)
