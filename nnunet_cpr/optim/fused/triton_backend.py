"""The optional GPU kernels (Triton): R, constraint step and update in one pass, for l2 with `fused=True` on CUDA.

They are compiled when first used and then tried on a small case against torch's own operators. Without Triton, where
that fails, and wherever a case is not covered, the plain path does the same within float32 rounding.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import STATES, TensorBatch, recorded
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout, addresses, find

if TYPE_CHECKING:
    from nnunet_cpr.optim.stacked_state import StackedState

DEVICE_TYPE = "cuda"  # ROCm calls itself so, too
_WIDE, _NARROW = 16, 4  # bytes of which addresses are multiples
_UNKNOWN = -1  # no tensor has this version
_log = logging.getLogger(__name__)
_refused: set[torch.device] = set()
"""Where a variant of the kernels has failed its trial; the others are not tried then."""


def covers(work: TensorBatch, kept: "StackedState") -> bool:
    """Return whether the kernels can do R, the constraint step and the update of these tensors."""
    if work.params[0].device.type != DEVICE_TYPE or not _importable():
        return False
    if work.params[0].device in _refused:
        return False
    # A captured graph would be replayed with the table of addresses of now.
    if recorded() or any([isinstance(number, Tensor) for number in work.group.get("betas", ())]):
        return False
    return kept.chunks.take(work) and _works(kept.chunks.variant, work.params[0].device)


def value(work: TensorBatch, kept: "StackedState") -> Tensor:
    """Return R of each tensor; only what the last step has not added up is read."""
    return kept.chunks.regs(work)


def step(work: TensorBatch, kept: "StackedState", keep: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update all of the tensors: which of them are bounded only the device knows."""
    kept.chunks.shrink_and_update(work, keep)
    return range(len(work.params))


class Variant(NamedTuple):
    """What the kernels are compiled for."""

    update: str
    nesterov: bool
    guarded: bool
    scaled: bool
    align: int


class Chunks:
    """Tensors as the kernels see them: a table of addresses, cut into chunks, each chunk with its sum of squares.

    A sum is that of the weights that the last step wrote. Weights may be changed in between: a tensor is read again
    where torch has counted a change, where it lies elsewhere, and where these kernels' last step left it out. What
    torch does not count (edits through `p.data`, the steps of its fused optimizers, a replayed graph) the device
    notices by the first element of each chunk of 8192. What escapes this, too, is not in R before the step after.
    """

    variant: Variant

    def __init__(self) -> None:
        self._places: MemoryLayout | None = None
        self._stream: Any = None
        self._gradients: list[int] = []
        self._options: list[float] = []
        self._versions: list[int] = []
        self._counts: list[int] = []
        """Of each tensor's chunks."""
        self._sums = torch.empty(0, dtype=torch.float32, device="cpu")
        self._marks = torch.empty(0, dtype=torch.int32, device="cpu")

    def take(self, work: TensorBatch) -> bool:
        """Take the tensors of a step; return whether they are such as the kernels handle."""
        places = find(work, DEVICE_TYPE, self._places)
        if places is None:
            return False
        self._device = work.params[0].device
        # What is uploaded belongs to the stream that reads it.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        if stream != self._stream:
            self._places, self._stream = None, stream
        if places is not self._places:
            self._cut(places)
        gradients = addresses(work.gradients)
        if self._gradients != gradients:
            table = [*places.weights, *gradients, *itertools.chain(*places.states)]
            self._table, self._gradients = _upload(table, torch.int64, self._device), gradients
            self._align = _WIDE if all([address % _WIDE == 0 for address in table]) else _NARROW
        guarded, scaled = work.found_inf is not None, work.grad_scale is not None
        self.variant = Variant(work.update, bool(work.group.get("nesterov")), guarded, scaled, self._align)
        return True

    def regs(self, work: TensorBatch) -> Tensor:
        """Return the sum of squares of each tensor: shape (number of tensors,), float32, added in float64."""
        count = len(work.params)
        regs = torch.empty(count, dtype=torch.float32, device=self._device)
        flags = [known != now for known, now in zip(self._versions, work.versions(), strict=True)]
        changed = _upload(flags, torch.int32, self._device) if any(flags) else self._unchanged
        with self._on_device():
            self._launch_chunks("read_chunks", changed)
            self._launch("add_chunks", count, self._first, self._sums, regs, block=kernels().BLOCK)
        return regs

    def shrink_and_update(self, work: TensorBatch, keep: Tensor) -> None:
        """Multiply the tensors that were taken by `keep` and do the optimizer's update, its state included."""
        group, device, count = work.group, self._device, len(work.params)
        adam = work.update == "adam"
        lr, numbers = group["lr"], [*group["betas"], group["eps"]] if adam else [group["momentum"], group["dampening"]]
        lr_on_device = isinstance(lr, Tensor) and lr.device.type == DEVICE_TYPE
        # -1 stands for what is copied below: no lr is negative.
        options = [-1.0 if lr_on_device else float(lr), *map(float, numbers), -1.0 if group["maximize"] else 1.0]
        if options != self._options:
            self._option_table, self._options = _upload(options, torch.float64, device), options
        if lr_on_device:
            self._option_table[:1].copy_(lr.reshape(1))
        # Without GradScaler these are never read.
        found_inf = self._sums if work.found_inf is None else work.found_inf.to(device, torch.float32)
        grad_scale = self._sums if work.grad_scale is None else work.grad_scale.to(device, torch.float32)
        flags: dict[str, Any] = {"guarded": self.variant.guarded}
        with self._on_device():
            extra = []
            if adam:
                extra = [torch.empty(count, dtype=torch.float32, device=device) for _ in ("rates", "spreads")]
                self._launch("begin_adam", count, self._table, count, self._option_table, *extra, found_inf, **flags)
            else:
                flags["nesterov"] = self.variant.nesterov
            flags["scaled"] = self.variant.scaled
            self._launch_chunks(work.update, keep, *extra, self._option_table, found_inf, grad_scale, **flags)
        work.count_changes(range(count))
        self._versions = work.versions()

    def _cut(self, places: MemoryLayout) -> None:
        """Cut these tensors into chunks. The sums of those that were here before are kept."""
        device, sizes = self._device, places.sizes
        counts = [math.ceil(size / kernels().CHUNK) for size in sizes]
        before = [None] * len(sizes) if self._places is None else places.numbers_in(self._places)

        def carried(values: Tensor) -> Tensor:
            olds = torch.split(values, self._counts)
            fresh = torch.split(values.new_zeros(sum(counts)), counts)
            return torch.cat([new if old is None else olds[old] for new, old in zip(fresh, before, strict=True)])

        self._sums, self._marks = carried(self._sums.to(device)), carried(self._marks.to(device))
        self._versions = [_UNKNOWN if old is None else self._versions[old] for old in before]
        self._places, self._counts = places, counts
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
    """Import the kernels, and so Triton, which takes a second."""
    from nnunet_cpr.optim.fused import triton_kernels

    return triton_kernels


@functools.cache
def _importable() -> bool:
    try:
        kernels()
    except Exception as error:  # ImportError, or whatever a Triton raises that does not fit this torch or driver
        _log.info("no GPU kernel, torch alone is used: %s", error)
        return False
    return True


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device, without waiting for the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _upload(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return _to(torch.tensor(numbers, dtype=dtype, device="cpu"), device)


@functools.cache
def _works(variant: Variant, device: torch.device) -> bool:
    """Return whether the kernels compile here and agree with torch; the reason why not goes to the log."""
    # This waits for the device, once; a user who forbids that means the steps.
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        if mode:
            torch.cuda.set_sync_debug_mode(0)
        with torch.no_grad():
            agrees = _agrees_with_torch(variant, device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a driver, a compiler or Triton may raise
        _log.info("no GPU kernel, torch alone is used: %s", error)
        _refused.add(device)
        return False
    finally:
        if mode:
            torch.cuda.set_sync_debug_mode(mode)
    if not agrees:
        _log.warning("%s on %s disagrees with torch, so torch alone is used; please report it", variant, device)
        _refused.add(device)
    return agrees


def _agrees_with_torch(variant: Variant, device: torch.device) -> bool:
    """Do a step of two tensors, one of them of two chunks, with the kernels and with torch's fused operators."""

    def tensors(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sizes = (5, kernels().CHUNK + 3)
        values = [function(torch.linspace(-1, 1, size, dtype=torch.float32, device=device)) for size in sizes]
        return values if variant.align == _WIDE else [torch.cat([x[:1], x])[1:] for x in values]

    def scalar(number: float) -> Tensor:
        return torch.full((), number, dtype=torch.float32, device=device)

    names = STATES[variant.update]
    params, gradients, *buffers = [tensors(f) for f in (torch.sin, torch.cos, *[torch.square for _ in names])]
    steps = [scalar(3) for _ in params]
    copies: list[Any] = [[tensor.clone() for tensor in row] for row in (params, gradients, *buffers, steps)]
    x, g, *b, t = copies
    scale = scalar(4) if variant.scaled else None
    if scale is not None:
        torch._foreach_mul_(gradients, scale)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "nesterov": variant.nesterov}
    group = {**options, "betas": (0.9, 0.99), "eps": 1e-8, "maximize": False}
    states = [dict(zip([*names, "step"], row, strict=True)) for row in zip(*buffers, steps, strict=True)]
    work = TensorBatch(variant.update, group, params, gradients, states, scalar(0) if variant.guarded else None, scale)
    keep = torch.linspace(0.5, 1, 2, dtype=torch.float32, device=device)
    chunks = Chunks()
    if not chunks.take(work):
        return False
    chunks.regs(work)
    chunks.shrink_and_update(work, keep)
    torch._foreach_mul_(x, list(keep.unbind()))
    if variant.update == "adam":
        torch._foreach_add_(t, 1)
        options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "amsgrad": False}
        torch._fused_adam_(x, g, b[0], b[1], [], t, weight_decay=0, maximize=False, **options)
    else:
        torch._fused_sgd_(x, g, b[0], weight_decay=0, maximize=False, is_first_step=False, **options)
    ours = [*params, *gradients, *[buffer for row in buffers for buffer in row], *steps, chunks.regs(work)]
    theirs = [*x, *g, *[buffer for row in b for buffer in row], *t, torch.stack([y.square().sum() for y in x])]
    return all([torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ours, theirs, strict=True)])
