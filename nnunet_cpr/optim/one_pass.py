"""What the ways to do the constraint step and the optimizer's update in one pass over memory have in common.

Such a way is a module with `covers`, `value` and `step`, see :class:`OnePass`. Where none covers the tensors at hand,
the plain path does R, the constraint step and the base optimizer's step one after the other.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

STATES: dict[str, tuple[str, ...]] = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each update keeps for a tensor and is of its size; Adam counts its steps in `step`, too."""
_TYPES = (Tensor, torch.nn.Parameter)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Work(NamedTuple):
    """Tensors alike that are to be constrained and updated, all of which have a gradient."""

    update: str
    """The base optimizer's update: "adam", "sgd", or nothing for any other."""
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

    def buffers(self) -> list[list[Any]]:
        """Return the values of the states that have the tensors' sizes, None where a state lacks one."""
        return [[state.get(name) for state in self.states] for name in STATES[self.update]]

    def steps(self) -> list[Any]:
        """Return the step counts of Adam."""
        return [state.get("step") for state in self.states] if self.update == "adam" else []


class OnePass(Protocol):
    """A way to do the constraint step of l2 and the update in one pass."""

    def covers(self, work: Work, kept: "Alike") -> bool:
        """Return whether it can be used."""

    def value(self, work: Work, kept: "Alike", values: Values) -> Tensor:
        """Return R of each tensor: shape (len(params),), float32; anything where `values`, CPR's state, need none."""

    def step(self, work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[Tensor]:
        """Multiply tensors by their `keep` and update them, state included; both of shape (len(params),), float32.

        Returns those for which it did; the others, whose `keep` is 1, are left to the base optimizer's step.
        """


def could_cover(work: Work) -> bool:
    """Return whether the settings are those that every one of these ways asks for: l2, fused, Adam or SGD."""
    group = work.group
    return (
        work.update in STATES
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


def fits(work: Work, device_type: str) -> bool:
    """Return whether all tensors are float32, on one device of this type, without gaps, and each as its weights are.

    A state or gradient of another size (after loading another layer's, say) would be read past its end. Weights that
    share memory would be written twice.
    """
    params, device = work.params, work.params[0].device
    places = [param.data_ptr() for param in params if param.numel()]
    return (
        device.type == device_type
        and _float32(params, device)
        and all(map(_without_gaps, params))
        and len(set(places)) == len(places)
        and all([_alike(tensors, params, device) for tensors in [work.gradients(), *work.buffers()]])
        and _float32(work.steps(), device)
    )


def gradients_fit(work: Work) -> bool:
    """Return whether the gradients are as they should be, where weights and states are known to be."""
    return _alike(work.gradients(), work.params, work.params[0].device)


def _alike(tensors: Sequence[Any], params: Sequence[Tensor], device: torch.device) -> bool:
    return _float32(tensors, device) and all(
        [x.shape == p.shape and x.stride() == p.stride() for x, p in zip(tensors, params, strict=True)]
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


def _without_gaps(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    memory_format = _FORMATS.get(tensor.ndim)
    return memory_format is not None and tensor.is_contiguous(memory_format=memory_format)
