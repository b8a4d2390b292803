"""CPR in timm's optimizer factory: importing this module registers the names `adamcpr` and `sgdcpr`.

    import nnunet_cpr.optim.timm
    optimizer = timm.optim.create_optimizer_v2(model, "adamcpr", lr=1e-3, weight_decay=0.05)

timm sorts parameters by whether they are to be decayed, and an optimizer sees no more of the model than that. So CPR
regularizes exactly what timm would decay, and nothing is decayed: of `weight_decay` only counts whether it is above 0.
Needs timm 1.0.22 or later; `nnunet_cpr.optim` itself does not.
"""

from collections.abc import Iterable
from typing import Any

from timm.optim._optim_factory import OptimInfo, default_registry

from nnunet_cpr.optim import CPR, SGDCPR, AdamCPR


def create(
    optimizer_class: type[CPR], params: Iterable[Any], *args: Any, weight_decay: float = 0.0, **kwargs: Any
) -> CPR:
    """Return the optimizer for what timm's factory passes: parameters or groups, a weight decay for those without one.

    A group that says `regularize` itself, as those of :func:`nnunet_cpr.optim.param_groups` do, is taken at its word.

    Raises:
        ValueError: no group has weight decay or `regularize=True`, so that there is nothing to regularize.
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
            f"{optimizer_class.__name__} regularizes what timm would decay, and that is nothing here: set weight_decay "
            "above 0 (its value is not used), or pass param_group_fn=nnunet_cpr.optim.param_groups"
        )
    return optimizer_class(groups, *args, **kwargs)


class TimmAdamCPR(AdamCPR):
    """What timm's registry calls for `adamcpr`. It makes an AdamCPR: by :func:`create` if given a weight decay."""

    def __new__(cls, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an AdamCPR itself: only that has fused kernels."""
        return _made(AdamCPR, params, *args, **kwargs)


class TimmSGDCPR(SGDCPR):
    """What timm's registry calls for `sgdcpr`. It makes an SGDCPR: by :func:`create` if given a weight decay."""

    def __new__(cls, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an SGDCPR itself: only that has fused kernels."""
        return _made(SGDCPR, params, *args, **kwargs)


def _made(optimizer_class: type[CPR], params: Any, *args: Any, **kwargs: Any) -> CPR:
    # timm's factory always passes a weight decay. Who looks the class up and calls it as AdamCPR passes none.
    if "weight_decay" in kwargs:
        return create(optimizer_class, params, *args, **kwargs)
    return optimizer_class(params, *args, **kwargs)


def _register(name: str, base: str, optimizer_class: type[CPR], **info: Any) -> None:
    description = f"{base} with Constrained Parameter Regularization (CPR)"
    default_registry.register(OptimInfo(name=name, opt_class=optimizer_class, description=description, **info))


_register("adamcpr", "Adam", TimmAdamCPR, has_betas=True)
# As timm's own `sgd`.
_register("sgdcpr", "SGD", TimmSGDCPR, has_eps=False, has_momentum=True, defaults={"nesterov": True})
