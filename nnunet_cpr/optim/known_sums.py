"""R of tensors that were just written, kept for the next step so that nothing is read twice. For the CPU."""

import ctypes
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class KnownSums:
    """R = sum(theta^2) of float32 tensors: known from the update that wrote them, or read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) lies elsewhere. Edits through `p.data` or NumPy and the steps of torch's fused
    optimizers are not counted, so a few elements are compared, too. What escapes all three (such an edit of some
    elements only) is in R one step later: every step adds R up anew from the weights that it writes, or forgets it.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def remember(self, params: Sequence[Tensor], sums: Tensor) -> None:
        """Keep the float64 sums of these tensors, bit for bit what reading them would give."""
        for param, value in zip(params, sums.tolist(), strict=True):
            known = self._known.get(id(param))
            if known is None or not known.in_place():
                known = self._known[id(param)] = _Known(param)
            known.set(value)

    def forget(self, params: Sequence[Tensor]) -> None:
        """Drop what is known of these tensors, before torch's own step, which may be fused, changes them uncounted."""
        for param in params:
            if known := self._known.get(id(param)):
                known.sum = None

    def of(self, params: Sequence[Tensor], read: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Return R of each tensor, shape (len(params),), float32; what is not known is `read`, in float64."""
        sums = [known.get() if (known := self._known.get(id(param))) else None for param in params]
        unknown = [number for number, value in enumerate(sums) if value is None]
        if unknown:
            for number, value in zip(unknown, read([params[number] for number in unknown]).tolist(), strict=True):
                sums[number] = value
        return torch.tensor(sums, dtype=torch.float32, device="cpu")


class _Known:
    """The sum of squares of a tensor, and what tells whether the tensor is as it was left."""

    __slots__ = ("_address", "_bits", "_elements", "_numel", "_param", "_version", "sum")

    def __init__(self, param: Tensor) -> None:
        self._param, self._address, self._numel = param, param.data_ptr(), param.numel()
        # Views of four elements, evenly spread in memory; as integers, so that NaN is equal to itself.
        last = self._numel - 1
        places = [self._address + 4 * (last * i // 3) for i in range(4)] if last >= 0 else []
        self._elements = [ctypes.c_uint32.from_address(place) for place in places]
        self.sum: float | None = None

    def in_place(self) -> bool:
        """Return whether the tensor lies where it did: elsewhere the memory of the views may be gone."""
        return self._param.data_ptr() == self._address and self._param.numel() == self._numel

    def set(self, value: float) -> None:
        self.sum, self._version = value, self._param._version
        self._bits = [element.value for element in self._elements]

    def get(self) -> float | None:
        """Return the sum if it is known and still that of the tensor."""
        if self.sum is None or not self.in_place() or self._param._version != self._version:
            return None
        return self.sum if [element.value for element in self._elements] == self._bits else None


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects, not equal ones."""
    return len(some) == len(others) and all(map(operator.is_, some, others))
