"""Lines 4 and 5 of Algorithm 1: how the bound kappa and the multiplier lambda advance from one step to the next."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import RULES, Values
from nnunet_cpr.optim.reductions import times


def advance(old: Values, reg: Tensor, rates: Sequence[float], group: Mapping[str, Any]) -> Values:
    """Return the CPR state of some tensors after a step. All values are vectors, one element a tensor.

    Line 4 sets kappa by the group's rule. Line 5 is lambda_{t+1} = max(0, lambda_t + mu / n (R - kappa)). With adaptive
    bounds kappa becomes R where lambda has just returned to 0 (paper, Appendix D). No value is read on the host.

    Args:
        old: `cpr_step`, `kappa`, `lagmul` and the values of the rule, each of shape (number of tensors,).
        reg: R of the present weights, of the same shape.
        rates: mu / n of each tensor.
        group: the settings of the tensors' parameter group.
    """
    new = {**old, **RULES[group["kappa_init_method"]](old["cpr_step"], reg, old, group)}
    moved = (old["lagmul"] + times(reg - new["kappa"], rates)).clamp(min=0)
    # Without a bound lambda is 0, also if R overflows (inf - inf is NaN) and if a user lifts a bound that acts.
    new["lagmul"] = torch.where(new["kappa"] == math.inf, 0, moved)
    if group["adaptive_bounds"]:
        returned = (old["lagmul"] > 0) & (new["lagmul"] == 0)
        new["kappa"] = torch.where(returned, reg, new["kappa"])
    new["cpr_step"] = old["cpr_step"] + 1
    return new
