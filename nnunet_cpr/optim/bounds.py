"""How the bound kappa of a tensor is set: the paper's four rules (section 4.3), without a branch on a tensor's value.

A rule is a class below and an entry of `RULES`. Trainers' names, flags, help texts, checks and tests take it from
there; CONTRIBUTING.md says how to add one. This module does not import torch, because programs that only parse
arguments read it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

Values = dict[str, "Tensor"]


class BoundRule(ABC):
    """A rule that sets kappa, for many tensors at once.

    An unset bound is +inf: R - inf keeps lambda at 0, so nothing is constrained.
    """

    name: ClassVar[str]
    """The value of `kappa_init_method`."""
    title: ClassVar[str]
    """The rule's name in the paper, for texts and figures."""
    meaning: ClassVar[str]
    """What kappa is, after "kappa = "; `{}` stands for the value of `kappa_init_param`."""
    spelling: ClassVar[str]
    """The rule in a trainer's name; `<...>` stands for the value of `kappa_init_param`."""
    parameter: ClassVar[str] = ""
    """What `kappa_init_param` means: a number of at least 0. Empty: the rule does not use it."""
    counts_steps: ClassVar[bool] = False
    """Whether `kappa_init_param` is a number of steps, so whole and, to be reached, below the training's length."""
    default: ClassVar[int | float | None] = None
    """The default of `kappa_init_param`; None: there is none."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Which settings the rule reads besides `kappa_init_param`."""
    state: ClassVar[Mapping[str, float]] = {}
    """What the rule remembers of a tensor besides kappa, and the values before the first step."""

    @abstractmethod
    def __call__(self, t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
        """Return kappa and the rule's own values after a step. All tensors have shape (number of tensors,).

        Args:
            t: the steps that each tensor has completed.
            reg: R(theta_t) of each tensor.
            values: the state of the tensors before the step, by name.
            group: the settings of the parameter group.
        """


class Uniform(BoundRule):
    """Kappa-K: the same bound `kappa_init_param` for every tensor."""

    name = "uniform"
    title = "Kappa-K"
    spelling = "k<kappa>"
    meaning = "{} for every tensor"
    parameter = "the bound of every tensor"

    def __call__(self, t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
        """Set kappa at the first step."""
        return {"kappa": values["kappa"].where(t != 0, group["kappa_init_param"])}


class Dependent(BoundRule):
    """Kappa-kI0: `kappa_init_param` times R of the initial weights."""

    name = "dependent"
    title = "Kappa-kI0"
    spelling = "ki<k>"
    meaning = "{} x R of the initial weights"
    parameter = "the factor of the initial R"

    def __call__(self, t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
        """Set kappa at the first step."""
        return {"kappa": (group["kappa_init_param"] * reg).where(t == 0, values["kappa"])}


class WarmStart(BoundRule):
    """Kappa-WS: R of the weights after `kappa_init_param` unconstrained steps."""

    name = "warm_start"
    title = "Kappa-WS"
    spelling = "ws<steps>"
    meaning = "R after {} unconstrained steps"
    parameter = "the steps of the warm start"
    counts_steps = True
    default = 1000

    def __call__(self, t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
        """Set kappa when the warm start is over."""
        return {"kappa": reg.where(t == group["kappa_init_param"], values["kappa"])}


class InflectionPoint(BoundRule):
    """Kappa-IP: R at the first sample where the second difference of the smoothed R is negative.

    R is smoothed by an exponential moving average (`reg_ema_decay`) and sampled every `reg_step_size` steps. All three
    values start as NaN, and a comparison with NaN is false: it takes three samples to find a point.
    """

    name = "inflection_point"
    title = "Kappa-IP"
    spelling = "ip"
    meaning = "R at its inflection point, per tensor (meant for Adam)"
    settings = ("reg_step_size", "reg_ema_decay")
    state: ClassVar[Mapping[str, float]] = {"reg_ema": math.nan, "reg_sample": math.nan, "reg_slope": math.nan}

    def __call__(self, t: Tensor, reg: Tensor, values: Values, group: Mapping[str, Any]) -> Values:
        """Smooth R, sample it where a sample is due, and set kappa where the slope has fallen."""
        decay = group["reg_ema_decay"]
        ema = reg.where(values["reg_ema"].isnan(), decay * values["reg_ema"] + (1 - decay) * reg)
        due = t % group["reg_step_size"] == 0
        slope = ema - values["reg_sample"]
        found = due & (slope < values["reg_slope"]) & values["kappa"].isinf()
        return {
            "kappa": reg.where(found, values["kappa"]),
            "reg_ema": ema,
            "reg_sample": ema.where(due, values["reg_sample"]),
            "reg_slope": slope.where(due, values["reg_slope"]),
        }


RULES: dict[str, BoundRule] = {rule.name: rule for rule in (Uniform(), Dependent(), WarmStart(), InflectionPoint())}

_START = {"lagmul": 0.0, "kappa": math.inf, "cpr_step": 0.0}
_STARTS = {name: {**_START, **rule.state} for name, rule in RULES.items()}
STATE_KEYS = tuple(dict.fromkeys(key for start in _STARTS.values() for key in start))
"""The names of all values that a tensor's CPR state may hold."""


def start_values(group: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tensor's CPR state holds before its first step, by name.

    Args:
        group: the settings of the tensor's parameter group.
    """
    return _STARTS[group["kappa_init_method"]]
