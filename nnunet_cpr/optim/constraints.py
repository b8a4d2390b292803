"""The constraint of each tensor as it stands now, for tables, figures and logs."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from nnunet_cpr.optim.regularizers import REGULARIZERS
from nnunet_cpr.optim.settings import is_regularized, param_name


class Constraint(NamedTuple):
    """The constraint R(theta) <= kappa of one tensor, as it stands now. See `CPR.constraints`.

    Examples:
        >>> from nnunet_cpr.optim import Constraint
        >>> constraint = Constraint("layer.weight", numel=6, reg=2.0, kappa=1.9, lagmul=0.01, flips=False)
        >>> constraint.bounded, constraint.active
        (True, True)
    """

    name: str
    numel: int
    reg: float
    """R(theta) of the present weights."""
    kappa: float
    """The bound; inf while it is unset, for instance because no inflection point was found yet."""
    lagmul: float
    """The multiplier lambda of the last step; 0 where the constraint did not act."""
    flips: bool
    """The explicit step removes more than the whole weight and so flips signs (l2: 2 lambda > 1)."""

    @property
    def bounded(self) -> bool:
        """Whether the bound is set."""
        return self.kappa != float("inf")

    @property
    def active(self) -> bool:
        """Whether the constraint acted in the last step."""
        return self.lagmul > 0


def read_constraints(optimizer: Optimizer) -> list[Constraint]:
    """Return the constraint of every regularized tensor that is not frozen. Waits for the device."""
    rows = []
    number = itertools.count()
    for group in optimizer.param_groups:
        for index, param in enumerate(group["params"]):
            name = param_name(group, index, next(number))
            if is_regularized(group, param) and param.requires_grad:
                rows.append(_read(name, param, group, optimizer.state.get(param, {})))
    return rows


@torch.no_grad()
def _read(name: str, param: Tensor, group: Mapping[str, Any], state: Mapping[str, Tensor]) -> Constraint:
    regularizer = REGULARIZERS[group["reg_function"]]
    reg = regularizer.value([param])
    lagmul = float(state.get("lagmul", 0.0))
    share = regularizer.shrinkage(reg.new_tensor([lagmul]), reg, [param.numel()])
    return Constraint(
        name=name,
        numel=param.numel(),
        reg=reg.item(),
        kappa=float(state.get("kappa", float("inf"))),
        lagmul=lagmul,
        flips=group["step_form"] == "explicit" and bool(share > 1),
    )
