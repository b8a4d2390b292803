"""Constraint and update in one pass over memory, where a backend can do that.

The optimizer asks :func:`find_backend`, and can do without one: torch's own operators give the same within float32
rounding. By default a CPU uses the C kernels and a GPU torch's operators. The environment variable `NNUNET_CPR_KERNELS`
changes that for a process, :func:`use` for a block of code.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from nnunet_cpr.optim.fused import c_backend, triton_backend
from nnunet_cpr.optim.fused.backend import Backend, TensorBatch, could_cover, local_parts

SWITCH = "NNUNET_CPR_KERNELS"
BACKENDS: dict[str, Backend] = {"c": c_backend, "triton": triton_backend}
_DEFAULT = ("c",)
"""Without Triton, which has not run on a GPU yet."""
_chosen: list[str | None] = []
"""What the innermost :func:`use` asks for."""

__all__ = ["BACKENDS", "SWITCH", "TensorBatch", "check_switch", "could_cover", "find_backend", "local_parts", "use"]


@contextmanager
def use(name: str | None) -> Iterator[None]:
    """Use only this backend in a `with` block, in all threads; None: none, so torch's own operators.

    Args:
        name: "c", "triton" or None.

    Raises:
        ValueError: no such backend.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import AdamCPR, fused
        >>> optimizer = AdamCPR(torch.nn.Linear(2, 2), lr=1e-3)
        >>> with fused.use(None):
        ...     optimizer.step()
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}, only {', '.join(BACKENDS)} and None")
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def check_switch(params: Sequence[Tensor]) -> None:
    """Check the environment variable `NNUNET_CPR_KERNELS`.

    Args:
        params: the tensors that an optimizer is made for.

    Raises:
        ValueError: it has no meaning, or asks for kernels that cannot run here or on these tensors.
    """
    value = os.environ.get(SWITCH, "auto")
    if value not in ("auto", "none", *BACKENDS):
        raise ValueError(f"{SWITCH} is {value!r}, but must be one of auto, {', '.join(BACKENDS)}, none")
    if value in BACKENDS:
        reason = BACKENDS[value].why_not(params)
        if reason:
            raise ValueError(f"{SWITCH} is {value!r}, but these kernels cannot run: {reason}; unset it")


def find_backend(batch: TensorBatch, caches: dict[str, Any]) -> tuple[Backend, Any] | None:
    """Return a backend that covers a batch and its cache, bound to the batch; None where no backend does.

    Args:
        batch: tensors on one device.
        caches: what :func:`find_backend` keeps between steps for these tensors, by backend. Empty at first.
    """
    for name in _allowed():
        backend = BACKENDS[name]
        if name not in caches:
            caches[name] = backend.new_cache()
        if backend.covers(batch, caches[name]):
            return backend, caches[name]
    return None


def _allowed() -> Sequence[str]:
    if _chosen:
        return [name for name in _chosen[-1:] if name is not None]
    value = os.environ.get(SWITCH, "auto")
    return _DEFAULT if value == "auto" else [name for name in BACKENDS if name == value]
