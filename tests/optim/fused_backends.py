"""Puts a kernel backend to use in a test and notes what the optimizer asks it to do, through the public `Backend`."""

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from nnunet_cpr.optim import fused
from nnunet_cpr.optim.fused import c_build, triton_backend
from nnunet_cpr.optim.fused.backend import Backend

UNSAMPLED = 5
"""An element that no backend looks at when it checks whether weights have changed."""
TRITON_CHUNK = 1024  # one block: the interpreter is slow
GPU = "cuda" if torch.cuda.is_available() else "cpu"

kernels = pytest.mark.parametrize("backend", ["c", "triton"], indirect=True)
"""Runs a test with each backend that has kernels. Without this mark it also runs with torch's own operators."""


class WatchedBackend:
    """A backend that notes what it is asked. The name None stands for torch's own operators, which nobody asks."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.device = "cpu" if name == "c" else GPU
        self.chunk = 8192 if name == "c" else TRITON_CHUNK if GPU == "cpu" else 8192
        self.updated: list[list[Tensor]] = []
        """The tensors of each update."""
        self.cache: Any = None
        """The one that the optimizer used last."""
        self._real = fused.BACKENDS.get(name) if name else None
        self._reads: list[list[Tensor]] | None = None

    @property
    def _backend(self) -> Backend:
        assert self._real is not None
        return self._real

    @contextlib.contextmanager
    def watched_reads(self) -> Iterator[list[list[Tensor]]]:
        """Yield a list that gets the tensors that each step in this block reads to find R, if it reads any.

        A tensor was read, at least in part, if R contains an edit that nothing notices. Those of five elements or fewer
        are left out.
        """
        reads: list[list[Tensor]] = []
        self._reads = reads
        yield reads
        self._reads = None

    def why_not(self, params: Sequence[Tensor]) -> str | None:
        return self._backend.why_not(params)

    def new_cache(self) -> Any:
        return self._backend.new_cache()

    def covers(self, batch: fused.TensorBatch, cache: Any) -> bool:
        self.cache = cache
        return self._backend.covers(batch, cache)

    def squared_norms(self, batch: fused.TensorBatch, cache: Any) -> Tensor:
        if self._reads is not None:
            with self.edited_unnoticed(batch.params):
                norms = self._backend.squared_norms(batch, cache).tolist()
            read = [param for param, norm in zip(batch.params, norms, strict=True) if norm >= 1e6]
            self._reads += [read] if read else []
        return self._backend.squared_norms(batch, cache)

    def shrink_and_update(self, batch: fused.TensorBatch, cache: Any, factors: Tensor, kappa: Tensor) -> Sequence[int]:
        indices = self._backend.shrink_and_update(batch, cache, factors, kappa)
        self.updated += [[batch.params[index] for index in indices]] if indices else []
        return indices

    def takes(self, opt: Optimizer, params: Sequence[Tensor]) -> bool:
        """Return whether the next step would be done by the kernels."""
        return self._backend.covers(batch_of(opt, params), self.cache)

    def norms(self, opt: Optimizer, params: Sequence[Tensor]) -> Tensor:
        """Return R of each tensor as the next step would get it."""
        assert self.takes(opt, params)
        return self._backend.squared_norms(batch_of(opt, params), self.cache)

    @contextlib.contextmanager
    def edited_unnoticed(self, params: Sequence[Tensor]) -> Iterator[None]:
        """Add a million to the R of each chunk of the weights by edits that no backend notices, and undo them."""
        elements = [param.data.view(-1)[UNSAMPLED :: self.chunk] for param in params]
        before = [some.clone() for some in elements]
        for some in elements:
            some.fill_(1000.0)
        yield
        for some, values in zip(elements, before, strict=True):
            some.copy_(values)

    def update(self, opt: Optimizer, params: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Do the next step's update with these factors instead of the constraint's."""
        assert self.takes(opt, params)
        given = torch.tensor(factors, device=self.device)
        with torch.no_grad():
            self._backend.shrink_and_update(batch_of(opt, params), self.cache, given, torch.ones_like(given))


def batch_of(opt: Optimizer, params: Sequence[Tensor]) -> fused.TensorBatch:
    """Return the batch of the next step, of these tensors of the first group."""
    update = "adam" if isinstance(opt, torch.optim.Adam) else "sgd"
    return fused.TensorBatch(
        update, opt.param_groups[0], params, [p.grad for p in params], [opt.state[p] for p in params]
    )


def skip_where_missing(name: str | None) -> None:
    """Skip the test where a backend cannot run."""
    if name == "c" and (reason := c_build.why_not()):
        pytest.skip(reason)
    if name == "triton":
        pytest.importorskip(
            "nnunet_cpr.optim.fused.triton_kernels", reason="no Triton, which comes with torch on Linux"
        )
        version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
        if GPU == "cpu" and version < (3, 5) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
            pytest.skip("this Triton's interpreter does not run with NumPy 2.4")


@contextlib.contextmanager
def watched(name: str | None) -> Iterator[WatchedBackend]:
    """Watch a backend ("c", "triton", None). Without a GPU the Triton kernels run in the interpreter, on a CPU."""
    with contextlib.ExitStack() as stack:
        if name == "triton" and GPU == "cpu":
            from nnunet_cpr.optim.fused import triton_kernels

            stack.enter_context(mock.patch.object(triton_backend, "DEVICE_TYPE", GPU))
            stack.enter_context(mock.patch.object(triton_kernels, "CHUNK", TRITON_CHUNK))
        backend = WatchedBackend(name)
        if name:
            stack.enter_context(mock.patch.dict(fused.BACKENDS, {name: backend}))
        yield backend


@contextlib.contextmanager
def in_use(name: str | None) -> Iterator[WatchedBackend]:
    """Watch a backend and use no other."""
    with watched(name) as backend, fused.use(name):
        yield backend


def same_tensors(some: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> bool:
    """Return whether two lists of lists hold the same tensors, not just equal ones."""
    return [list(map(id, row)) for row in some] == [list(map(id, row)) for row in others]
