"""What the ways to do the constraint step and the optimizer's update in one pass over memory have in common.

Such a way is a module with `covers`, `value` and `step`, see :class:`OnePass`. Where none covers the tensors at hand,
the plain path does R, the constraint step and the base optimizer's step one after the other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

STATES: dict[str, tuple[str, ...]] = {"adam": ("exp_avg", "exp_avg_sq", "step"), "sgd": ("momentum_buffer",)}
"""What each update keeps for a tensor; all but the step count have the tensor's size."""
_TYPES = (Tensor, torch.nn.Parameter)


class Work(NamedTuple):
    """Tensors alike that are to be constrained and updated, all of which have a gradient."""

    update: str | None
    """The base optimizer's update: "adam", "sgd", or None for any other."""
    group: Mapping[str, Any]
    params: Sequence[Tensor]
    states: Sequence[dict[str, Tensor]]
    found_inf: Tensor | None = None
    """Of GradScaler: above 0 where the step is to be skipped."""
    grad_scale: Tensor | None = None
    """Of GradScaler: what gradients are still to be divided by."""

    def gradients(self) -> list[Any]:
        """Return the gradients, which are never None here."""
        return [param.grad for param in self.params]

    def buffers(self, name: str) -> list[Any]:
        """Return a value of all states, None where a state lacks it."""
        return [state.get(name) for state in self.states]


class OnePass(Protocol):
    """A way to do the constraint step of l2 and the update in one pass."""

    def covers(self, work: Work) -> bool:
        """Return whether it can be used."""

    def value(self, work: Work, kept: "Alike") -> Tensor:
        """Return R of each tensor: shape (len(params),), float32."""

    def step(self, work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[Tensor]:
        """Multiply tensors by their `keep` and update them, state included; both of shape (len(params),), float32.

        Returns those for which it did; the others, whose `keep` is 1, are left to the base optimizer's step.
        """


def could_cover(work: Work) -> bool:
    """Return whether the settings are those that every one of these ways asks for: l2, fused, Adam or SGD."""
    group = work.group
    return (
        work.update is not None
        and bool(group.get("fused"))
        and group["reg_function"] == "l2"
        and not group.get("amsgrad")
        # Without momentum torch neither reads nor writes the buffer.
        and not (work.update == "sgd" and group["momentum"] == 0)
        and not torch.compiler.is_compiling()
    )


def recorded() -> bool:
    """Return whether this step is compiled or captured, and will be done again with the states of now."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def plain(tensors: Sequence[Any], device_type: str) -> TypeGuard[Sequence[Tensor]]:
    """Return whether these are tensors, no subclass's, of float32, on such a device."""
    device = tensors[0].device if isinstance(tensors[0], Tensor) else None
    return (
        device is not None
        and device.type == device_type
        and all(
            [
                type(tensor) in _TYPES
                and tensor.dtype is torch.float32
                and tensor.device == device
                and tensor.layout is torch.strided
                for tensor in tensors
            ]
        )
    )


def contiguous(tensors: Sequence[Tensor]) -> bool:
    """Return whether each is in one piece of memory, in the order of its dimensions."""
    return all([tensor.is_contiguous() for tensor in tensors])


def numels(tensors: Sequence[Tensor]) -> list[int]:
    """Return the number of elements of each."""
    return [tensor.numel() for tensor in tensors]


def bounded(kappa: Tensor, keep: Tensor) -> list[int]:
    """Return the numbers of the tensors whose bound is set: what is left takes torch's own step, bit for bit.

    For the CPU, of which nothing has to be waited for.
    """
    pairs = zip(kappa.tolist(), keep.tolist(), strict=True)
    return [number for number, (bound, factor) in enumerate(pairs) if bound != math.inf or factor != 1]
