"""R of tensors that the CPU kernel has just written, kept for the next step so that nothing is read twice."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim import cpu_kernel

Mark = tuple[int, int, bytes]
"""What tells whether a tensor is as it was left: torch's count of changes, its address, a few elements."""


class _Known(NamedTuple):
    params: list[Tensor]
    marks: list[Mark]
    sums: Tensor


class KnownSums:
    """R = sum(theta^2) of tensors: known from the update that wrote them, or read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) lies elsewhere. Edits through `p.data` or NumPy and the steps of torch's fused
    optimizers are not counted, so a few elements are compared, too. What escapes all three (such an edit of some
    elements only) is in R one step later: every step adds R up anew from the weights that it writes, or forgets it.
    """

    def __init__(self) -> None:
        self._known: _Known | None = None

    def remember(self, params: Sequence[Tensor], sums: Tensor) -> None:
        """Keep what :func:`cpu_kernel.shrink_and_update` has returned for these tensors, forgotten before."""
        known = _Known(list(params), _marks(params), sums)
        if self._known is not None:
            old = self._known
            known = _Known(old.params + known.params, old.marks + known.marks, torch.cat([old.sums, sums]))
        self._known = known

    def forget(self, params: Sequence[Tensor]) -> None:
        """Drop what is known of these tensors, before torch's own step, which may be fused, changes them uncounted."""
        known, self._known = self._known, None
        if known is None or same(known.params, params):
            return
        gone = set(map(id, params))
        rest = [i for i, param in enumerate(known.params) if id(param) not in gone]
        if rest:
            self._known = _Known([known.params[i] for i in rest], [known.marks[i] for i in rest], known.sums[rest])

    def of(self, params: Sequence[Tensor]) -> Tensor:
        """Return R of each tensor: shape (len(params),), float32, summed in float64."""
        known, marks = self._known, _marks(params)
        if known is None:
            sums = cpu_kernel.square_sums(params)
        elif same(known.params, params) and known.marks == marks:
            sums = known.sums
        else:
            regs = dict(zip(zip(map(id, known.params), known.marks, strict=True), known.sums.tolist(), strict=True))
            found = [regs.get((id(param), mark)) for param, mark in zip(params, marks, strict=True)]
            unknown = [i for i, reg in enumerate(found) if reg is None]
            if unknown:
                read = cpu_kernel.square_sums([params[i] for i in unknown]).tolist()
                for i, reg in zip(unknown, read, strict=True):
                    found[i] = reg
            sums = torch.tensor(found, dtype=torch.float64, device="cpu")
        return sums.to(torch.float32)


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not equal ones."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _marks(params: Sequence[Tensor]) -> list[Mark]:
    versions = [param._version for param in params]
    addresses = [param.data_ptr() for param in params]
    return list(zip(versions, addresses, cpu_kernel.samples(params), strict=True))
