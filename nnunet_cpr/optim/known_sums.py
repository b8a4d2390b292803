"""R of tensors that the CPU kernel has just written, kept for the next step so that nothing is read twice."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim import cpu_kernel


class _Known(NamedTuple):
    reg: float
    version: int
    address: int
    samples: bytes


class KnownSums:
    """R = sum(theta^2) of tensors: known from the update that wrote them, or read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) lies elsewhere. Edits through `p.data` or NumPy and the steps of torch's fused
    optimizers are not counted, so a few elements are compared, too. What escapes all three (such an edit of some
    elements only) is in R one step later: every step adds R up anew from the weights that it writes, or forgets it.
    """

    def __init__(self) -> None:
        self._known: dict[Tensor, _Known] = {}

    def remember(self, params: Sequence[Tensor], sums: Tensor) -> None:
        """Keep what :func:`cpu_kernel.shrink_and_update` has returned for these tensors."""
        for param, reg, samples in zip(params, sums.tolist(), cpu_kernel.samples(params), strict=True):
            self._known[param] = _Known(reg, param._version, param.data_ptr(), samples)

    def forget(self, params: Sequence[Tensor]) -> None:
        """Drop what is known of these tensors, before torch's own step, which may be fused, changes them."""
        for param in params:
            self._known.pop(param, None)

    def of(self, params: Sequence[Tensor]) -> Tensor:
        """Return R of each tensor: shape (len(params),), float32, summed in float64."""
        regs = [self._recalled(p, samples) for p, samples in zip(params, cpu_kernel.samples(params), strict=True)]
        unknown = [i for i, reg in enumerate(regs) if reg is None]
        if unknown:
            for i, reg in zip(unknown, cpu_kernel.square_sums([params[i] for i in unknown]).tolist(), strict=True):
                regs[i] = reg
        return torch.tensor(regs, dtype=torch.float32, device="cpu")

    def _recalled(self, param: Tensor, samples: bytes) -> float | None:
        """Return R of a tensor that is as it was left, else None."""
        known = self._known.get(param)
        if known is None or known[1:] != (param._version, param.data_ptr(), samples):
            return None
        return known.reg
