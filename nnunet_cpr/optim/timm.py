"""CPR in timm's optimizer factory: importing this module registers the names `adamcpr` and `sgdcpr`.

    import nnunet_cpr.optim.timm
    optimizer = timm.optim.create_optimizer_v2(model, "adamcpr", lr=1e-3, weight_decay=0.05)

timm sorts parameters by whether they are to be decayed, and an optimizer sees no more of the model than that. So CPR
regularises exactly what timm would decay, and nothing is decayed: of `weight_decay` only counts whether it is above 0.
Needs timm 1.0.22 or later; `nnunet_cpr.optim` itself does not.
"""

import functools
from collections.abc import Iterable
from typing import Any

from timm.optim._optim_factory import OptimInfo, default_registry

from nnunet_cpr.optim import CPR, SGDCPR, AdamCPR


def create(optimizer_class: type[CPR], params: Iterable[Any], weight_decay: float = 0.0, **kwargs: Any) -> CPR:
    """Return the optimizer for what timm's factory passes: parameters or groups, a weight decay for those without one.

    A group that says `regularize` itself, as those of :func:`nnunet_cpr.optim.param_groups` do, is taken at its word.

    Raises:
        ValueError: no group has weight decay or `regularize=True`, so that there is nothing to regularise.
    """
    given = list(params)
    if not any(isinstance(group, dict) for group in given):
        given = [{"params": given}]
    groups = []
    for group in given:
        decayed = bool(group.get("weight_decay", weight_decay))
        groups.append({"regularize": decayed, **group, "weight_decay": 0.0})
    if not any(group["regularize"] for group in groups):
        raise ValueError(
            f"{optimizer_class.__name__} regularises what timm would decay, and that is nothing here: set weight_decay "
            "above 0 (its value is not used), or pass param_group_fn=nnunet_cpr.optim.param_groups"
        )
    return optimizer_class(groups, **kwargs)


def _register(name: str, optimizer_class: type[CPR], **info: Any) -> None:
    description = f"{optimizer_class.__bases__[-1].__name__} with Constrained Parameter Regularization (CPR)"
    factory: Any = functools.partial(create, optimizer_class)
    default_registry.register(OptimInfo(name=name, opt_class=factory, description=description, **info))


_register("adamcpr", AdamCPR, has_betas=True)
_register("sgdcpr", SGDCPR, has_eps=False, has_momentum=True, defaults={"nesterov": True})  # as timm's own `sgd`
