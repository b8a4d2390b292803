"""The optional CPU kernel: R in one read, then constraint step and update in one pass, for l2 with `fused=True`.

It is compiled by the machine's C compiler when first used (about a second, kept in the user's cache folder). Without a
compiler, and wherever a case is not covered, torch alone does the same within float32 rounding.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nnunet_cpr.optim.one_pass import Work
from nnunet_cpr.optim.places import Places, addresses

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

_SOURCE = Path(__file__).with_name("cpu_kernel.c")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=gnu11")
_log = logging.getLogger(__name__)


def covers(work: Work, kept: "Alike") -> bool:
    """Return whether the kernel can do R, the constraint step and the update of these tensors."""
    on_cpu = work.params[0].device.type == "cpu"
    return on_cpu and work.found_inf is None and library() is not None and kept.sums.take(work)


def value(work: Work, kept: "Alike") -> Tensor:
    """Return R of each tensor; it is read only where no step before has added it up."""
    return kept.sums.value(work, square_sums)


def step(work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update the tensors whose bound is set."""
    return kept.sums.step(work, keep, kappa, shrink_and_update)


def square_sums(params: Sequence[Tensor]) -> Tensor:
    """Return R = sum(theta^2) of each tensor: shape (len(params),), float64."""
    sums = torch.empty(len(params), dtype=torch.float64, device="cpu")
    _call("square_sums", len(params), _sizes(params), _pointers(params), _pointer(sums))
    return sums


def shrink_and_update(work: Work, places: Places, numbers: Sequence[int], keep: Sequence[float]) -> Tensor:
    """Multiply these tensors by their `keep` and do the optimizer's update, its state included, in one pass.

    Returns:
        R of each tensor after it, bit for bit what :func:`square_sums` would find: shape (len(numbers),), float64.
    """
    group = work.group
    sizes, weights, *states = places.prepared(_arrays, work, numbers)
    gradients = _pointers([work.gradients[number] for number in numbers])
    lr = ctypes.c_double(float(group["lr"]))
    if work.update == "adam":
        beta1, beta2 = (ctypes.c_double(float(beta)) for beta in group["betas"])
        options = [lr, beta1, beta2, ctypes.c_double(group["eps"]), int(group["maximize"])]
    else:
        values = [ctypes.c_double(group[name]) for name in ("momentum", "dampening")]
        options = [lr, *values, int(group["nesterov"]), int(group["maximize"])]
    factors = (ctypes.c_float * len(numbers))(*[keep[number] for number in numbers])
    sums = torch.empty(len(numbers), dtype=torch.float64, device="cpu")
    _call(work.update, len(numbers), sizes, weights, gradients, factors, _pointer(sums), *states, *options)
    work.count_changes(numbers)
    return sums


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None where it cannot be had; the reason goes to the log."""
    try:
        runtime = _openmp()
        path = _cache() / f"cpu_kernel-{_fingerprint(runtime)}.so"
        if not _intact(path):
            _compile(path, runtime)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        _log.info("no compiled CPU kernel, torch alone is used: %s", error)
        return None


def _openmp() -> Path:
    """Return torch's own OpenMP library: a second one beside it would fight for the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if platform.system() != "Linux" or not found:
        raise RuntimeError("torch brings no GNU OpenMP library here")
    return found[0]


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunet-cpr"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(runtime: Path) -> str:
    """Name what the binary depends on; home folders are shared by machines with different processors."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")  # as x86 and ARM call it
    parts = (_SOURCE.read_text(), *_FLAGS, str(runtime), platform.machine(), cpu)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _intact(path: Path) -> bool:
    """Return whether the binary is there and whole: loading a truncated one would kill the process."""
    try:
        return path.with_suffix(".sha256").read_text() == _checksum(path)
    except FileNotFoundError:
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(path: Path, runtime: Path) -> None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"no C compiler found: {compiler[0]}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built, obj = Path(folder) / path.name, Path(folder) / "kernel.o"
        for command in (
            [*compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(obj)],
            [*compiler, "-shared", str(obj), str(runtime), "-lm", "-o", str(built)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        checksum = Path(folder) / "checksum"
        checksum.write_text(_checksum(built))
        os.replace(built, path)
        os.replace(checksum, path.with_suffix(".sha256"))


def _call(function: str, count: int, *arguments: Any) -> None:
    if getattr(library(), function)(ctypes.c_int64(count), *arguments):
        raise MemoryError("no memory for the partial sums of R")


def _arrays(work: Work, numbers: Sequence[int]) -> list[ctypes.Array[Any]]:
    """Return the kernel's view of weights and states: their sizes, and where each of them begins."""
    params, *states = [
        [row[number] for number in numbers] for row in (work.params, *work.buffers(), work.steps()) if row
    ]
    return [_sizes(params), _pointers(params), *map(_pointers, states)]


def _sizes(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_void_p * len(tensors))(*addresses(tensors))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
