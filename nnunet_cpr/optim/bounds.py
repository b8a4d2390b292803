"""How the bound kappa of a tensor is set: the paper's four rules (section 4.3), without a branch on a tensor's value.

Each rule maps the tensors' own step counts `t` (steps completed), R(theta_t) and their state to the state after it. All
values have shape (number of tensors,). An unset bound is +inf: R - inf keeps lambda at 0, so nothing is constrained.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Values = dict[str, Tensor]
Rule = Callable[[Tensor, Tensor, Values, Mapping[str, Any]], Values]


def uniform(t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
    """Kappa-K: the same bound `kappa_init_param` for every tensor."""
    return {"kappa": torch.where(t == 0, group["kappa_init_param"], values["kappa"])}


def dependent(t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
    """Kappa-kI0: `kappa_init_param` times R of the initial weights."""
    return {"kappa": torch.where(t == 0, group["kappa_init_param"] * reg, values["kappa"])}


def warm_start(t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
    """Kappa-WS: R of the weights after `kappa_init_param` unconstrained steps."""
    return {"kappa": torch.where(t == group["kappa_init_param"], reg, values["kappa"])}


def inflection_point(t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
    """Kappa-IP: R at the first sample where the second difference of the smoothed R is negative.

    R is smoothed by an exponential moving average (`reg_ema_decay`) and sampled every `reg_step_size` steps. All three
    values start as NaN, and a comparison with NaN is false: it takes three samples to find a point.
    """
    decay = group["reg_ema_decay"]
    ema = torch.where(values["reg_ema"].isnan(), reg, decay * values["reg_ema"] + (1 - decay) * reg)
    due = t % group["reg_step_size"] == 0
    slope = ema - values["reg_sample"]
    found = due & (slope < values["reg_slope"]) & values["kappa"].isinf()
    return {
        "kappa": torch.where(found, reg, values["kappa"]),
        "reg_ema": ema,
        "reg_sample": torch.where(due, ema, values["reg_sample"]),
        "reg_slope": torch.where(due, slope, values["reg_slope"]),
    }


RULES: dict[str, Rule] = {
    "uniform": uniform,
    "dependent": dependent,
    "warm_start": warm_start,
    "inflection_point": inflection_point,
}

_START = {"lagmul": 0.0, "kappa": math.inf, "cpr_step": 0.0}
_START_INFLECTION_POINT = {"reg_ema": math.nan, "reg_sample": math.nan, "reg_slope": math.nan}
STATE_KEYS = (*_START, *_START_INFLECTION_POINT)


def start_values(group: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tensor's CPR state holds before its first step, by name."""
    if group["kappa_init_method"] == "inflection_point":
        return {**_START, **_START_INFLECTION_POINT}
    return _START


def waits(values: Values, group: Mapping[str, Any]) -> bool:
    """Return whether this is a step of a warm start: no bound is set, so that R counts for nothing.

    Only a CPU's values are read; it is False of others, which would have to be waited for, of those without values
    (FakeTensor), and in a compiled step.
    """
    if group["kappa_init_method"] != "warm_start" or torch.compiler.is_compiling():
        return False
    columns = [values[name] for name in ("cpr_step", "kappa", "lagmul")]
    if columns[0].device.type != "cpu" or type(columns[0]) is not Tensor:
        return False
    rows = zip(*[column.tolist() for column in columns], strict=True)
    return all([t != group["kappa_init_param"] and kappa == math.inf and lagmul == 0 for t, kappa, lagmul in rows])
