"""The optional GPU kernels (Triton): R, constraint step and update in one pass, for l2 with `fused=True` on CUDA.

They are compiled when first used and then tried on a small case against torch's own operators. Without Triton, where
that fails, and wherever a case is not covered, the plain path does the same within float32 rounding.
"""

import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_cpr.optim.known_sums import same
from nnunet_cpr.optim.one_pass import STATES, Work, contiguous, could_cover, numels, plain, recorded

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

DEVICE_TYPE = "cuda"  # ROCm calls itself so, too
_ALIGNED = 16  # bytes; what torch allocates is
_log = logging.getLogger(__name__)


def covers(work: Work) -> bool:
    """Return whether the kernels can do R, the constraint step and the update of these tensors."""
    if not (could_cover(work) and _fit(work.params) and _fit(work.gradients())):
        return False
    if any([isinstance(number, Tensor) for number in work.group.get("betas", ())]):
        return False
    # A captured graph would be replayed with the table of addresses of now.
    if recorded() or not _works(_variant(work), work.params[0].device):
        return False
    for name in STATES[str(work.update)]:
        buffers = work.buffers(name)
        if not plain(buffers, DEVICE_TYPE) or (name != "step" and not _alike(buffers, work.params)):
            return False
    return True


def value(work: Work, kept: "Alike") -> Tensor:
    """Return R of each tensor; only what the last step has not added up is read."""
    kept.chunks.of(work)
    return kept.chunks.regs()


def step(work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[Tensor]:
    """Shrink and update all of the tensors: which of them are bounded only the device knows."""
    kept.chunks.shrink_and_update(work, keep)
    return work.params


class Chunks:
    """Tensors as the kernels see them: a table of addresses, cut into chunks, each chunk with its sum of squares.

    A sum is that of the weights that the last step wrote. Weights may be changed in between: where torch has counted a
    change, or a tensor lies elsewhere, everything is read again. What torch does not count (edits through `p.data`, the
    steps of its fused optimizers) the device notices by the first element of each chunk of 8192. What escapes this,
    too, is in R one step later.
    """

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._addresses: list[int] = []
        self._options: list[float] = []
        self._versions: list[int] = []

    def of(self, work: Work) -> None:
        """Take these tensors, and bring the sums of chunks up to date."""
        lengths = numels(work.params)  # `p.data = other` may change them
        if not same(self._params, work.params) or self._lengths != lengths:
            self._cut(list(work.params), lengths)
        tensors = [work.params, work.gradients(), *[work.buffers(name) for name in STATES[str(work.update)]]]
        addresses = [tensor.data_ptr() for row in tensors for tensor in row]
        count = len(self._params)
        changed = self._versions != _versions(self._params) or self._addresses[:count] != addresses[:count]
        if self._addresses != addresses:
            self._table = _upload(addresses, torch.int64, self._device)
            self._addresses = addresses
        self._launch("read_chunks", len(self._starts), self._table, count, *self._cuts, self._marks, self._sums,
                     int(changed), chunk=kernels().CHUNK, block=kernels().BLOCK)  # fmt: skip

    def regs(self) -> Tensor:
        """Return the sum of squares of each tensor: shape (number of tensors,), float32, added in float64."""
        regs = torch.empty(len(self._params), dtype=torch.float32, device=self._device)
        self._launch("add_chunks", len(self._params), self._first, self._sums, regs, block=kernels().BLOCK)
        return regs

    def shrink_and_update(self, work: Work, keep: Tensor) -> None:
        """Multiply the tensors that :meth:`of` has taken by `keep` and do the optimizer's update, state included."""
        group, device = work.group, self._device
        adam = work.update == "adam"
        lr = group["lr"]
        on_device = isinstance(lr, Tensor) and lr.device == device
        numbers = [*group["betas"], group["eps"]] if adam else [group["momentum"], group["dampening"]]
        options = [float("nan") if on_device else float(lr), *map(float, numbers), -1.0 if group["maximize"] else 1.0]
        if on_device or options != self._options:
            self._option_table = _upload(options, torch.float64, device)
            self._options = options
        if on_device:
            self._option_table[0].copy_(lr)
        nothing = self._sums
        found_inf = nothing if work.found_inf is None else work.found_inf.to(device)
        grad_scale = nothing if work.grad_scale is None else work.grad_scale.to(device)
        flags: dict[str, Any] = {"guarded": work.found_inf is not None}
        count, extra = len(self._params), []
        if adam:
            extra = [torch.empty(count, dtype=torch.float32, device=device) for _ in ("rates", "spreads")]
            self._launch("begin_adam", count, self._table, count, self._option_table, *extra, found_inf, **flags)
        else:
            flags["nesterov"] = group["nesterov"]
        self._launch(str(work.update), len(self._starts), self._table, count, *self._cuts, self._marks, self._sums,
                     keep, *extra, self._option_table, found_inf, grad_scale, chunk=kernels().CHUNK,
                     block=kernels().BLOCK, scaled=work.grad_scale is not None, **flags)  # fmt: skip
        # The kernel writes past torch: autograd must still notice if a graph wanted the old weights.
        torch.autograd.graph.increment_version(self._params)
        self._versions = _versions(self._params)

    def _cut(self, params: list[Tensor], lengths: list[int]) -> None:
        chunk = kernels().CHUNK
        self._params, self._lengths, self._device = params, lengths, params[0].device
        self._addresses, self._versions = [], []
        counts = [-(-length // chunk) for length in lengths]
        self._starts = [start for length in lengths for start in range(0, length, chunk)]
        owners = [number for number, count in enumerate(counts) for _ in range(count)]
        self._cuts = [
            _upload(owners, torch.int32, self._device),
            _upload(self._starts, torch.int64, self._device),
            _upload(lengths, torch.int64, self._device),
        ]
        first = [0]
        for count in counts:
            first.append(first[-1] + count)
        self._first = _upload(first, torch.int32, self._device)
        self._sums = torch.zeros(len(self._starts), dtype=torch.float32, device=self._device)
        self._marks = torch.zeros(len(self._starts), dtype=torch.int32, device=self._device)

    def _launch(self, name: str, programs: int, *arguments: Any, **constants: Any) -> None:
        if programs:
            # Triton launches on the current device.
            with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
                getattr(kernels(), name)[(programs,)](*arguments, **constants)


@functools.cache
def kernels() -> ModuleType:
    """Import the kernels, and so Triton, which takes a second."""
    from nnunet_cpr.optim import gpu_kernel_triton

    return gpu_kernel_triton


def _upload(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers of the host as a tensor, shape (len(numbers),), without waiting for the device."""
    tensor = torch.tensor(numbers, dtype=dtype, device="cpu")
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _fit(tensors: Sequence[Any]) -> bool:
    return plain(tensors, DEVICE_TYPE) and contiguous(tensors) and _aligned(tensors)


def _alike(buffers: Sequence[Tensor], params: Sequence[Tensor]) -> bool:
    # A state that was loaded from another layer's would be read past its end.
    return contiguous(buffers) and _aligned(buffers) and numels(buffers) == numels(params)


def _aligned(tensors: Sequence[Tensor]) -> bool:
    return all([tensor.data_ptr() % _ALIGNED == 0 for tensor in tensors])


def _versions(params: Sequence[Tensor]) -> list[int]:
    return [param._version for param in params]


class _Variant(NamedTuple):
    """What the kernels are compiled for."""

    update: str
    nesterov: bool
    guarded: bool
    scaled: bool


def _variant(work: Work) -> _Variant:
    nesterov = bool(work.group.get("nesterov"))
    return _Variant(str(work.update), nesterov, work.found_inf is not None, work.grad_scale is not None)


@functools.cache
def _works(variant: _Variant, device: torch.device) -> bool:
    """Return whether the kernels compile here and agree with torch; the reason why not goes to the log."""
    # This waits for the device, once; a user who forbids that means the steps.
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(0)
        agrees = _agrees_with_torch(variant, device)
    except Exception as error:  # whatever a driver, a compiler or Triton may raise
        _log.info("no GPU kernel, torch alone is used: %s", error)
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)
    if not agrees:
        _log.warning(
            "the GPU kernel %s disagrees with torch on %s, so torch alone is used; please report it", variant, device
        )
    return agrees


def _agrees_with_torch(variant: _Variant, device: torch.device) -> bool:
    scale = 4.0 if variant.scaled else 1.0

    def case() -> tuple[list[Tensor], torch.optim.Optimizer]:
        params: list[Tensor] = []
        for numel in (5, kernels().CHUNK + 3):
            param = nn.Parameter(torch.linspace(-1, 1, numel, device=device))
            param.grad = param.detach().cos()
            params.append(param)
        optimizer: torch.optim.Optimizer
        if variant.update == "adam":
            optimizer = torch.optim.Adam(params, lr=0.1, fused=True)
        else:
            optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=variant.nesterov, fused=True)
        optimizer.step()
        return params, optimizer

    with torch.enable_grad():
        (ours, mine), (theirs, base) = case(), case()
    keep = torch.stack([torch.full((), factor, device=device) for factor in (0.5, 1.0)])
    with torch.no_grad():
        torch._foreach_mul_(theirs, list(keep.unbind()))
        torch._foreach_mul_([param.grad for param in ours if param.grad is not None], scale)
    base.step()
    chunks = Chunks()
    work = Work(
        variant.update, mine.param_groups[0], ours, [mine.state[param] for param in ours],
        torch.zeros((), device=device) if variant.guarded else None,
        torch.full((), scale, device=device) if variant.scaled else None,
    )  # fmt: skip
    chunks.of(work)
    chunks.shrink_and_update(work, keep)
    pairs = [(chunks.regs(), torch.stack([param.detach().square().sum() for param in theirs]))]
    pairs += list(zip(ours, theirs, strict=True))
    for name in STATES[variant.update]:
        pairs += [(mine.state[x][name], base.state[y][name]) for x, y in zip(ours, theirs, strict=True)]
    return all([torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in pairs])
