"""R of tensors that were just written, kept for the next step so that nothing is read twice. For the CPU."""

import ctypes
import math
import operator
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values, needs_reg
from nnunet_cpr.optim.one_pass import Work


class KnownSums:
    """R = sum(theta^2) of float32 tensors: known from the update that wrote them, or read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) lies elsewhere. Edits through `p.data` or NumPy and the steps of torch's fused
    optimizers are not counted, so a few elements are compared, too. What escapes all three (such an edit of other
    elements only) is not in R before the step after: every step adds R up anew from the weights that it writes.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def remember(self, params: Sequence[Tensor], sums: Tensor) -> None:
        """Keep the float64 sums of these tensors, bit for bit what reading them would give."""
        for param, value in zip(params, sums.tolist(), strict=True):
            known = self._known.get(id(param))
            if known is None or not known.is_of(param):
                known = self._known[id(param)] = _Known(param)
            known.set(param, value)

    def forget(self, params: Sequence[Tensor]) -> None:
        """Drop what is known of these tensors, before torch's own step, which may be fused, changes them uncounted."""
        for param in params:
            if known := self._known.get(id(param)):
                known.sum = None

    def of(self, params: Sequence[Tensor], read: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Return R of each tensor, shape (len(params),), float32; what is not known is `read`, in float64."""
        sums = [known.get(param) if (known := self._known.get(id(param))) else None for param in params]
        unknown = [number for number, value in enumerate(sums) if value is None]
        if unknown:
            for number, value in zip(unknown, read([params[number] for number in unknown]).tolist(), strict=True):
                sums[number] = value
        return torch.tensor(sums, dtype=torch.float32, device="cpu")

    def value(self, work: Work, values: Values, read: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Return R of each tensor, as :meth:`of` does, or zeros where this step does not need it."""
        if not needs_reg(values, work.group):
            return torch.zeros(len(work.params), dtype=torch.float32, device="cpu")
        return self.of(work.params, read)

    def step(
        self,
        work: Work,
        keep: Tensor,
        kappa: Tensor,
        shrink_and_update: Callable[[Work, Sequence[int], Sequence[float]], Tensor],
    ) -> Sequence[Tensor]:
        """Shrink and update the tensors whose bound is set, and return them; `shrink_and_update` returns their sums.

        The others take torch's own step, bit for bit. Reading a CPU's tensor waits for nothing.
        """
        factors = keep.tolist()
        pairs = enumerate(zip(kappa.tolist(), factors, strict=True))
        numbers = [number for number, (bound, factor) in pairs if bound != math.inf or factor != 1]
        self.forget(work.params)
        if not numbers:
            return ()
        params = [work.params[number] for number in numbers]
        self.remember(params, shrink_and_update(work, numbers, factors))
        return params


class _Known:
    """The sum of squares of a tensor, and what tells whether the tensor is as it was left."""

    __slots__ = ("_address", "_bits", "_elements", "_numel", "_param", "_version", "sum")

    def __init__(self, param: Tensor) -> None:
        self._param, self._address, self._numel = weakref.ref(param), param.data_ptr(), param.numel()
        # Views of four elements, evenly spread in memory; as integers, so that NaN is equal to itself.
        last = self._numel - 1
        places = [self._address + 4 * (last * i // 3) for i in range(4)] if last >= 0 else []
        self._elements = [ctypes.c_uint32.from_address(place) for place in places]
        self.sum: float | None = None

    def is_of(self, param: Tensor) -> bool:
        """Return whether this is the tensor, and lies where it did: elsewhere the memory of the views may be gone."""
        return self._param() is param and param.data_ptr() == self._address and param.numel() == self._numel

    def set(self, param: Tensor, value: float) -> None:
        self.sum, self._version = value, param._version
        self._bits = [element.value for element in self._elements]

    def get(self, param: Tensor) -> float | None:
        """Return the sum if it is known and still that of the tensor."""
        if self.sum is None or not self.is_of(param) or param._version != self._version:
            return None
        return self.sum if [element.value for element in self._elements] == self._bits else None


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not equal ones."""
    return len(some) == len(others) and all(map(operator.is_, some, others))
