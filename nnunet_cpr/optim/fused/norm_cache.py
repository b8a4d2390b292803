"""R of tensors that were just written, kept for the next step so that nothing is read twice. For the CPU."""

import ctypes
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import TensorBatch
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout, find

Read = Callable[[Sequence[Tensor]], Tensor]


class NormCache:
    """R = sum(theta^2) of float32 tensors: known from the update that wrote them, or read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) lies elsewhere. Edits through `p.data` or NumPy and the steps of torch's fused
    optimizers are not counted, so a few elements are compared, too. What escapes all three (such an edit of other
    elements only) is not in R before the step after: every step adds R up anew from the weights that it writes.
    """

    def __init__(self) -> None:
        self._places: MemoryLayout | None = None
        self._known: list[_Known] = []
        """Of these places' tensors."""
        self._by_id: dict[int, _Known] = {}
        """Also of those that have no gradient in this step."""

    def take(self, work: TensorBatch) -> bool:
        """Take the tensors of a step; return whether they are such as can be handled here."""
        places = find(work, "cpu", self._places)
        if places is None:
            return False
        if places is not self._places:
            self._places = places
            ids = set(map(id, work.group["params"]))
            self._by_id = {key: known for key, known in self._by_id.items() if key in ids}
            self._known = [self._of(*pair) for pair in zip(work.owners, work.params, strict=True)]
        return True

    def remember(self, work: TensorBatch, numbers: Sequence[int], sums: Tensor) -> None:
        """Keep the float64 sums of these tensors, bit for bit what reading them would give."""
        versions = work.versions()
        for number, value in zip(numbers, sums.tolist(), strict=True):
            self._known[number].set(value, versions[number])

    def value(self, work: TensorBatch, read: Read) -> Tensor:
        """Return R of the tensors taken, shape (number of them,), float32. What is not known is `read`, in float64."""
        sums = [known.get(version) for known, version in zip(self._known, work.versions(), strict=True)]
        unknown = [number for number, value in enumerate(sums) if value is None]
        if unknown:
            for number, value in zip(unknown, read([work.params[i] for i in unknown]).tolist(), strict=True):
                sums[number] = value
        return torch.tensor(sums, dtype=torch.float32, device="cpu")

    def step(
        self,
        work: TensorBatch,
        keep: Tensor,
        kappa: Tensor,
        shrink_and_update: Callable[[TensorBatch, MemoryLayout, Sequence[int], Sequence[float]], Tensor],
    ) -> Sequence[int]:
        """Shrink and update the tensors whose bound is set, and return their numbers.

        `shrink_and_update` returns their sums. The others take torch's own step, bit for bit. Reading a CPU's tensor
        waits for nothing.
        """
        factors = keep.tolist()
        pairs = enumerate(zip(kappa.tolist(), factors, strict=True))
        numbers = [number for number, (bound, factor) in pairs if bound != math.inf or factor != 1]
        # torch's own step, which may be fused, changes weights uncounted.
        for known in self._known:
            known.sum = None
        if numbers and self._places:
            self.remember(work, numbers, shrink_and_update(work, self._places, numbers, factors))
        return numbers

    def _of(self, owner: Tensor, param: Tensor) -> "_Known":
        known = self._by_id.get(id(owner))
        if known is None or not known.is_of(owner, param):
            known = self._by_id[id(owner)] = _Known(owner, param)
        return known


class _Known:
    """The sum of squares of a tensor, and what tells whether its weights are as they were left."""

    __slots__ = ("_address", "_bits", "_elements", "_numel", "_owner", "_version", "sum")

    def __init__(self, owner: Tensor, param: Tensor) -> None:
        # Not a weak reference: torch would refuse to swap the tensors of a model that moves.
        self._owner, self._address, self._numel = owner, param.data_ptr(), param.numel()
        # Views of four elements, evenly spread in memory; as integers, so that NaN is equal to itself.
        last = self._numel - 1
        places = [self._address + 4 * (last * i // 3) for i in range(4)]
        self._elements = [ctypes.c_uint32.from_address(place) if self._numel else ctypes.c_uint32() for place in places]
        self.sum: float | None = None

    def is_of(self, owner: Tensor, param: Tensor) -> bool:
        """Return whether this is the tensor, and lies where it did: elsewhere the memory of the views may be gone."""
        return self._owner is owner and param.data_ptr() == self._address and param.numel() == self._numel

    def set(self, value: float, version: int) -> None:
        self.sum, self._version, self._bits = value, version, self._read()

    def get(self, version: int) -> float | None:
        """Return the sum if it is known and the tensor, which must lie where it did, was not changed since."""
        if self.sum is None or version != self._version or self._read() != self._bits:
            return None
        return self.sum

    def _read(self) -> tuple[int, int, int, int]:
        a, b, c, d = self._elements
        return a.value, b.value, c.value, d.value
