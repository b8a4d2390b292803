"""Puts a kernel backend to use in a test and notes what the optimizer asks it to do, through the public `Backend`."""

import contextlib
from unittest import mock

import pytest
import torch

from nnunet_cpr.optim import fused
from nnunet_cpr.optim.fused import c_build, triton_backend

UNSAMPLED = 5
"""An element that no backend looks at when it checks whether weights have changed."""
TRITON_CHUNK = 1024  # one block: the interpreter is slow
GPU = "cuda" if torch.cuda.is_available() else "cpu"

kernels = pytest.mark.parametrize("backend", ["c", "triton"], indirect=True)
"""Runs a test with each backend that has kernels. Without this mark it also runs with torch's own operators."""


class WatchedBackend:
    """A backend that notes what it is asked. The name None stands for torch's own operators, which nobody asks."""

    def __init__(self, name):
        self.name = name
        self.device = "cpu" if name == "c" else GPU
        self.chunk = 8192 if name == "c" else TRITON_CHUNK if GPU == "cpu" else 8192
        self.updated = []
        """The tensors of each update."""
        self.cache = None
        """The one that the optimizer used last."""
        self._backend = fused.BACKENDS.get(name)
        self._reads = None

    def watch_reads(self):
        """Return a list that gets the tensors of each step from now on that are read to find R; [] is left out.

        A tensor is read if R contains an edit that nothing notices. Those of five elements or less are left out.
        """
        self._reads = []
        return self._reads

    def why_not(self, params):
        return self._backend.why_not(params)

    def new_cache(self):
        return self._backend.new_cache()

    def covers(self, batch, cache):
        self.cache = cache
        return self._backend.covers(batch, cache)

    def squared_norms(self, batch, cache):
        if self._reads is not None:
            with edited_unnoticed(batch.params):
                norms = self._backend.squared_norms(batch, cache).tolist()
            read = [param for param, norm in zip(batch.params, norms, strict=True) if norm >= 1e6]
            self._reads += [read] if read else []
        return self._backend.squared_norms(batch, cache)

    def shrink_and_update(self, batch, cache, factors, kappa):
        indices = self._backend.shrink_and_update(batch, cache, factors, kappa)
        self.updated += [[batch.params[index] for index in indices]] if indices else []
        return indices

    def takes(self, opt, params):
        """Return whether the next step would be done by the kernels."""
        return self._backend.covers(batch_of(opt, params), self.cache)

    def norms(self, opt, params):
        """Return R of each tensor as the next step would get it."""
        assert self.takes(opt, params)
        return self._backend.squared_norms(batch_of(opt, params), self.cache)


@contextlib.contextmanager
def edited_unnoticed(params):
    """Add a million to the R of the weights by an edit that no backend notices; undo it in the end."""
    elements = [param.data.view(-1)[UNSAMPLED : UNSAMPLED + 1] for param in params]
    before = [element.clone() for element in elements]
    for element in elements:
        element.fill_(1000.0)
    yield
    for element, value in zip(elements, before, strict=True):
        element.copy_(value)


def batch_of(opt, params):
    """Return the batch of the next step, of these tensors of the first group."""
    update = "adam" if isinstance(opt, torch.optim.Adam) else "sgd"
    return fused.TensorBatch(
        update, opt.param_groups[0], params, [p.grad for p in params], [opt.state[p] for p in params]
    )


def skip_where_missing(name):
    """Skip the test where a backend cannot run."""
    if name == "c" and c_build.why_not():
        pytest.skip(c_build.why_not())
    if name == "triton":
        pytest.importorskip("nnunet_cpr.optim.fused.triton_kernels", reason="no Triton, which comes with torch on Linux")


@contextlib.contextmanager
def in_use(name):
    """Use only this backend ("c", "triton", None) and watch it. Without a GPU Triton's interpreter runs its kernels."""
    with contextlib.ExitStack() as stack:
        if name == "triton" and GPU == "cpu":
            from nnunet_cpr.optim.fused import triton_kernels

            stack.enter_context(mock.patch.object(triton_backend, "DEVICE_TYPE", GPU))
            stack.enter_context(mock.patch.object(triton_kernels, "CHUNK", TRITON_CHUNK))
        backend = WatchedBackend(name)
        if name:
            stack.enter_context(mock.patch.dict(fused.BACKENDS, {name: backend}))
        stack.enter_context(fused.use(name))
        yield backend
