"""R of the weights that a step has just written, kept for the next step so that nothing is read twice. For CPUs."""

import ctypes
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import TensorBatch
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout, find_layout


class NormCache:
    """R = sum(theta^2) of float32 tensors, known from the update that wrote them, or else read.

    Weights may be changed between two steps. torch counts every change in place (`load_state_dict`, `p.mul_`), and a
    replaced tensor (`p.data = other`) has another address. It does not count edits through `p.data` or NumPy, nor the
    steps of its own fused optimizers, so four elements of each tensor are compared as well. An edit missed by all three
    checks enters R one step late, because every step adds R up anew from the weights that it writes.
    """

    def __init__(self) -> None:
        self._layout: MemoryLayout | None = None
        self._norms: list[_CachedNorm] = []
        """One for each tensor of the layout."""
        self._by_id: dict[int, _CachedNorm] = {}
        """Also those of tensors that have no gradient in this step."""

    def bind(self, batch: TensorBatch) -> bool:
        """Take the tensors of a step; return whether a kernel on a CPU can handle them."""
        layout = find_layout(batch, "cpu", self._layout)
        if layout is None:
            return False
        if layout is not self._layout:
            self._layout = layout
            ids = set(map(id, batch.group["params"]))
            self._by_id = {key: norm for key, norm in self._by_id.items() if key in ids}
            self._norms = [self._norm_of(*pair) for pair in zip(batch.owners, batch.params, strict=True)]
        return True

    def squared_norms(self, batch: TensorBatch, read: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Return R of each tensor of the bound batch: shape (len(batch.params),), float32.

        Args:
            batch: the bound batch.
            read: returns the float64 sums of squares of some tensors. It is called for those that are not known.
        """
        sums = [norm.get(version) for norm, version in zip(self._norms, batch.versions(), strict=True)]
        unknown = [index for index, value in enumerate(sums) if value is None]
        if unknown:
            for index, value in zip(unknown, read([batch.params[i] for i in unknown]).tolist(), strict=True):
                sums[index] = value
        return torch.tensor(sums, dtype=torch.float32, device="cpu")

    def shrink_and_update(
        self,
        batch: TensorBatch,
        factors: Tensor,
        kappa: Tensor,
        kernel: Callable[[TensorBatch, MemoryLayout, Sequence[int], Sequence[float]], Tensor],
    ) -> Sequence[int]:
        """Run a kernel on the tensors whose bound is set, and remember the sums of squares that it returns.

        The others take torch's own step, bit for bit.

        Returns:
            The indices of the tensors that the kernel has updated.
        """
        values = factors.tolist()  # reading a CPU's tensor waits for nothing
        pairs = enumerate(zip(kappa.tolist(), values, strict=True))
        indices = [index for index, (bound, factor) in pairs if bound != math.inf or factor != 1]
        # torch's own step changes weights without counting it.
        for norm in self._norms:
            norm.value = None
        if indices and self._layout:
            sums = kernel(batch, self._layout, indices, values)
            versions = batch.versions()
            for index, value in zip(indices, sums.tolist(), strict=True):
                self._norms[index].set(value, versions[index])
        return indices

    def _norm_of(self, owner: Tensor, param: Tensor) -> "_CachedNorm":
        norm = self._by_id.get(id(owner))
        if norm is None or not norm.belongs_to(owner, param):
            norm = self._by_id[id(owner)] = _CachedNorm(owner, param)
        return norm


class _CachedNorm:
    """A tensor's sum of squares, with what tells whether its weights are still the same."""

    __slots__ = ("_address", "_bits", "_numel", "_owner", "_samples", "_version", "value")

    def __init__(self, owner: Tensor, param: Tensor) -> None:
        # Not a weak reference: torch would refuse to swap the tensors of a model that moves.
        self._owner, self._address, self._numel = owner, param.data_ptr(), param.numel()
        # Views of four elements, evenly spread in memory; as integers, so that NaN is equal to itself.
        last = self._numel - 1
        places = [self._address + 4 * (last * i // 3) for i in range(4)]
        self._samples = [ctypes.c_uint32.from_address(place) if self._numel else ctypes.c_uint32() for place in places]
        self.value: float | None = None

    def belongs_to(self, owner: Tensor, param: Tensor) -> bool:
        """Return whether this is the tensor's, at the same address: elsewhere the sampled memory may be gone."""
        return self._owner is owner and param.data_ptr() == self._address and param.numel() == self._numel

    def set(self, value: float, version: int) -> None:
        self.value, self._version, self._bits = value, version, self._read_samples()

    def get(self, version: int) -> float | None:
        """Return the sum if it is known and the tensor, which must be at the same address, has not changed since."""
        if self.value is None or version != self._version or self._read_samples() != self._bits:
            return None
        return self.value

    def _read_samples(self) -> tuple[int, int, int, int]:
        a, b, c, d = self._samples
        return a.value, b.value, c.value, d.value
