"""Makes the CPR class of any optimizer class, and finds it again when an optimizer is unpickled."""

import functools
from typing import Any

import torch
from torch.optim import Optimizer

from nnunet_cpr.optim.optimizer import CPR, SGDCPR, AdamCPR

_NAMED: dict[type[Optimizer], type[CPR]] = {torch.optim.Adam: AdamCPR, torch.optim.SGD: SGDCPR}


@functools.cache
def cpr(optimizer_class: type[Optimizer]) -> type[CPR]:
    """Return the class that adds CPR to an optimizer class. The same class gives the same result.

    Args:
        optimizer_class: a class with the interface of torch.optim.Optimizer. Adam and SGD give `AdamCPR` and `SGDCPR`.

    Returns:
        A subclass of `CPR` and `optimizer_class`. It takes the arguments of both, and can be pickled.

    Raises:
        TypeError: not an optimizer class, or LBFGS, which learns from how weights change between its own evaluations.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import cpr
        >>> optimizer = cpr(torch.optim.NAdam)(torch.nn.Linear(3, 2), lr=1e-3)
        >>> type(optimizer).__name__
        'NAdamCPR'
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"cpr() takes a torch.optim.Optimizer class, not {optimizer_class!r}")
    if issubclass(optimizer_class, CPR):
        return optimizer_class
    if optimizer_class in _NAMED:
        return _NAMED[optimizer_class]
    if issubclass(optimizer_class, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS does a line search by calling the closure and learns the curvature from one step to the next: "
            "the constraint would move the weights in between; use another optimizer"
        )
    name = f"{optimizer_class.__name__}CPR"
    doc = f"{optimizer_class.__name__} with CPR. See nnunet_cpr.optim.CPR for the arguments in addition."
    members = {"__doc__": doc, "__module__": __name__, "__reduce_ex__": _reduce_ex, "_made_of": optimizer_class}
    return type(name, (CPR, optimizer_class), members)


def __getattr__(name: str) -> type[CPR]:
    """Find the class made of one of torch's optimizers by name, e.g. RMSpropCPR, as pickle looks for it."""
    base = getattr(torch.optim, name.removesuffix("CPR"), None)
    if not (name.endswith("CPR") and isinstance(base, type) and issubclass(base, Optimizer)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return cpr(base)  # type: ignore[arg-type]  # a class is hashable


def _reduce_ex(optimizer: Any, protocol: Any) -> Any:
    """Pickle and copy an optimizer by its base class, which may be a user's own: its class is in no module."""
    base = vars(type(optimizer)).get("_made_of")
    if base is None:  # a user's subclass
        return Optimizer.__reduce_ex__(optimizer, protocol)
    return _new_instance, (base,), optimizer.__getstate__()


def _new_instance(base: type[Optimizer]) -> CPR:
    cls = cpr(base)  # type: ignore[arg-type]  # a class is hashable
    return cls.__new__(cls)
