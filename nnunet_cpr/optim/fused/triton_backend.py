"""The GPU backend: Triton kernels for all tensors of a batch at once. Opt-in, because it has not run on a GPU yet.

The kernels are compiled when first used and then tried against torch (see `triton_selfcheck.py`). Where they cannot be
used, torch's own operators do the same within float32 rounding.
"""

import functools
import itertools
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import TensorBatch
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout, addresses, find_layout
from nnunet_cpr.optim.fused.triton_selfcheck import NARROW, WIDE, Variant, is_refused, works

DEVICE_TYPE = "cuda"  # ROCm's name, too
_UNKNOWN = -1  # no tensor has this version
_log = logging.getLogger(__name__)


def why_not(params: Sequence[Tensor]) -> str | None:
    """Return in a few words why this backend cannot run; None if it can."""
    devices = {param.device.type for param in params}
    if devices != {DEVICE_TYPE}:
        return f"the parameters are on {', '.join(sorted(devices))}"
    return _import_error()


def new_cache() -> "ChunkTable":
    """Return an empty cache."""
    return ChunkTable()


def covers(batch: TensorBatch, cache: "ChunkTable") -> bool:
    """Bind the cache to a batch; return whether the kernels can handle it."""
    device = batch.params[0].device
    if device.type != DEVICE_TYPE or is_refused(device) or _import_error():
        return False
    # A captured graph would be replayed with the addresses of now.
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return False
    if any([isinstance(beta, Tensor) for beta in batch.group.get("betas", ())]):
        return False
    return cache.bind(batch) and works(cache.variant, device, ChunkTable)


def squared_norms(batch: TensorBatch, cache: "ChunkTable") -> Tensor:
    """Return R of each tensor. Only what the last step has not added up is read."""
    return cache.squared_norms(batch)


def shrink_and_update(batch: TensorBatch, cache: "ChunkTable", factors: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update all of the tensors: only the device knows which of them are bounded."""
    cache.shrink_and_update(batch, factors)
    return range(len(batch.params))


class ChunkTable:
    """Tensors as the kernels see them: a table of addresses, cut into chunks, each chunk with its sum of squares.

    A sum is that of the weights that the last step wrote. Weights may be changed in between: a tensor is read again
    where torch has counted a change, where it lies elsewhere, and where these kernels' last step left it out. What
    torch does not count (edits through `p.data`, the steps of its fused optimizers, a replayed graph) the device
    notices by the first element of each chunk of 8192. What escapes this, too, is not in R before the step after.
    """

    variant: Variant

    def __init__(self) -> None:
        self._layout: MemoryLayout | None = None
        self._stream: Any = None
        self._gradients: list[int] = []
        self._options: list[float] = []
        self._versions: list[int] = []
        self._counts: list[int] = []
        """Of each tensor's chunks."""
        self._sums = torch.empty(0, dtype=torch.float32, device="cpu")
        self._marks = torch.empty(0, dtype=torch.int32, device="cpu")

    def bind(self, batch: TensorBatch) -> bool:
        """Take the tensors of a step; return whether the kernels can handle them."""
        layout = find_layout(batch, DEVICE_TYPE, self._layout)
        if layout is None:
            return False
        self._device = batch.params[0].device
        # What is uploaded belongs to the stream that reads it.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        if stream != self._stream:
            self._layout, self._stream = None, stream
        if layout is not self._layout:
            self._cut(layout)
        gradients = addresses(batch.gradients)
        if self._gradients != gradients:
            table = [*layout.weights, *gradients, *itertools.chain(*layout.states)]
            self._table, self._gradients = _upload(table, torch.int64, self._device), gradients
            self._align = WIDE if all([address % WIDE == 0 for address in table]) else NARROW
        guarded, scaled = batch.found_inf is not None, batch.grad_scale is not None
        self.variant = Variant(batch.update, bool(batch.group.get("nesterov")), guarded, scaled, self._align)
        return True

    def squared_norms(self, batch: TensorBatch) -> Tensor:
        """Return the sum of squares of each tensor: shape (number of tensors,), float32, added in float64."""
        count = len(batch.params)
        regs = torch.empty(count, dtype=torch.float32, device=self._device)
        flags = [known != now for known, now in zip(self._versions, batch.versions(), strict=True)]
        changed = _upload(flags, torch.int32, self._device) if any(flags) else self._unchanged
        with self._on_device():
            self._launch_chunks("read_chunks", changed)
            self._launch("add_chunks", count, self._first, self._sums, regs, block=kernels().BLOCK)
        return regs

    def shrink_and_update(self, batch: TensorBatch, factors: Tensor) -> None:
        """Multiply the tensors that were taken by their factors and do the optimizer's update, its state included."""
        group, device, count = batch.group, self._device, len(batch.params)
        adam = batch.update == "adam"
        lr, numbers = group["lr"], [*group["betas"], group["eps"]] if adam else [group["momentum"], group["dampening"]]
        lr_on_device = isinstance(lr, Tensor) and lr.device.type == DEVICE_TYPE
        # -1 stands for what is copied below: no lr is negative.
        options = [-1.0 if lr_on_device else float(lr), *map(float, numbers), -1.0 if group["maximize"] else 1.0]
        if options != self._options:
            self._option_table, self._options = _upload(options, torch.float64, device), options
        if lr_on_device:
            self._option_table[:1].copy_(lr.reshape(1))
        # Without GradScaler these are never read.
        found_inf = self._sums if batch.found_inf is None else batch.found_inf.to(device, torch.float32)
        grad_scale = self._sums if batch.grad_scale is None else batch.grad_scale.to(device, torch.float32)
        flags: dict[str, Any] = {"guarded": self.variant.guarded}
        with self._on_device():
            extra = []
            if adam:
                extra = [torch.empty(count, dtype=torch.float32, device=device) for _ in ("rates", "spreads")]
                self._launch("begin_adam", count, self._table, count, self._option_table, *extra, found_inf, **flags)
            else:
                flags["nesterov"] = self.variant.nesterov
            flags["scaled"] = self.variant.scaled
            self._launch_chunks(batch.update, factors, *extra, self._option_table, found_inf, grad_scale, **flags)
        batch.count_changes(range(count))
        self._versions = batch.versions()

    def _cut(self, layout: MemoryLayout) -> None:
        """Cut these tensors into chunks. The sums of those that were here before are kept."""
        device, sizes = self._device, layout.sizes
        counts = [math.ceil(size / kernels().CHUNK) for size in sizes]
        before = [None] * len(sizes) if self._layout is None else layout.indices_in(self._layout)

        def carried(values: Tensor) -> Tensor:
            olds = torch.split(values, self._counts)
            fresh = torch.split(values.new_zeros(sum(counts)), counts)
            return torch.cat([new if old is None else olds[old] for new, old in zip(fresh, before, strict=True)])

        self._sums, self._marks = carried(self._sums.to(device)), carried(self._marks.to(device))
        self._versions = [_UNKNOWN if old is None else self._versions[old] for old in before]
        self._layout, self._counts = layout, counts
        owners = torch.repeat_interleave(torch.tensor(counts, device="cpu"))
        self._owners = _to(owners.to(torch.int32), device)
        self._first = _upload([0, *itertools.accumulate(counts)], torch.int32, device)
        self._lengths = _upload(sizes, torch.int64, device)
        self._unchanged = torch.zeros(len(sizes), dtype=torch.int32, device=device)
        self._gradients, self._options = [], []

    def _launch_chunks(self, name: str, *arguments: Any, **constants: Any) -> None:
        of_chunks = [self._table, len(self._lengths), self._owners, self._first, self._lengths, self._marks, self._sums]
        sizes = {"chunk": kernels().CHUNK, "block": kernels().BLOCK, "align": self._align}
        self._launch(name, sum(self._counts), *of_chunks, *arguments, **sizes, **constants)

    def _launch(self, name: str, programs: int, *arguments: Any, **constants: Any) -> None:
        if programs:
            getattr(kernels(), name)[(programs,)](*arguments, **constants)

    def _on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


@functools.cache
def kernels() -> ModuleType:
    """Import the kernels, and with them Triton, which takes a second."""
    from nnunet_cpr.optim.fused import triton_kernels

    return triton_kernels


@functools.cache
def _import_error() -> str | None:
    try:
        kernels()
    except Exception as error:  # ImportError, or whatever a Triton raises that does not fit this torch or driver
        reason = f"Triton cannot be imported: {error}"
        _log.info("no Triton kernels, so torch's own operators are used: %s", reason)
        return reason
    return None


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device, without waiting for the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _upload(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return _to(torch.tensor(numbers, dtype=dtype, device="cpu"), device)
