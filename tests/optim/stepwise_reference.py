"""The plain reference held against an optimizer step by step, with tolerances that follow from the rounding of a step.

After each step the reference takes over the optimizer's weights, bounds and multipliers. So rounding does not
accumulate, however chaotic a training is; and as every step is right, starting from the right values, all are. Between
two steps the reference keeps them for itself, so whatever gets lost there is noticed.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from reference import algorithm1

from nnunet_cpr.optim.settings import is_regularized

SETTINGS = (
    "kappa_init_method", "kappa_init_param", "reg_function", "kappa_update", "reg_step_size", "reg_ema_decay",
    "step_form", "adaptive_bounds",
)  # fmt: skip


class TorchBase:
    """One of torch's optimizers, in float64 and without CPR, for one tensor."""

    def __init__(self, name: str, theta: torch.Tensor, options: dict[str, Any]) -> None:
        self.param = torch.nn.Parameter(theta.clone())
        self.opt: torch.optim.Optimizer = getattr(torch.optim, name)([self.param], **options)

    def step(self, theta: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        self.param.data = theta.clone()
        self.param.grad = grad.clone()
        self.opt.step()
        return self.param.detach().clone()


Base = algorithm1.Adam | algorithm1.SGD | TorchBase
State = Mapping[str, Any]
"""What the optimizer keeps for a tensor."""


class Tensor:
    """What one tensor must be after each step."""

    def __init__(self, param: torch.Tensor, group: Mapping[str, Any], base: str, options: Mapping[str, Any]) -> None:
        self.base_name, self.maximize = base, options.get("maximize", False)
        self.constraint: algorithm1.Constraint | None = None
        if is_regularized(group, param):
            self.constraint = algorithm1.Constraint(algorithm1.Settings(**{key: group[key] for key in SETTINGS}))
        keep = {key: options[key] for key in ("betas", "eps", "momentum", "nesterov") if key in options}
        self.base: Base
        if base == "Adam":
            self.base = algorithm1.Adam(lr=group["lr"], **keep)
        elif base == "SGD":
            self.base = algorithm1.SGD(lr=group["lr"], **keep)
        else:
            self.base = TorchBase(
                base, param.detach().double(), {"lr": group["lr"], "foreach": False, "weight_decay": 0}
            )
        self.eps = torch.finfo(param.dtype).eps
        self.acc_eps = torch.finfo(torch.float64 if param.dtype == torch.float64 else torch.float32).eps
        # torch's other optimizers carry their own state, which in low precision drifts from the float64 one.
        self.exact_base = base in ("Adam", "SGD") or param.dtype == torch.float64
        self.take(param)

    def take(self, param: torch.Tensor) -> None:
        """Take over the weights."""
        self.theta = param.detach().double().clone()

    def set_lr(self, lr: float) -> None:
        if isinstance(self.base, TorchBase):
            self.base.opt.param_groups[0]["lr"] = lr
        else:
            self.base.lr = lr

    def check(self, param: torch.Tensor, grad: torch.Tensor, state: State) -> bool:
        """Do the step that the optimizer has done, compare, take over. Returns whether the constraint acted."""
        theta, acted = self.theta, False
        tolerance = 4 * self.eps * theta.abs()
        if self.constraint is not None:
            theta, more = self._constrain(self.constraint, state)
            tolerance = tolerance + more
            acted = self.constraint.lam > 0
        grad = -grad.double() if self.maximize else grad.double()
        before = copy.deepcopy(self.base)
        expected = self.base.step(theta, grad)
        tolerance = tolerance + 4 * self.eps * expected.abs() + self._base_tolerance(before, grad, expected - theta)
        found = param.detach().double()
        if self.exact_base:
            assert bool(found.isfinite().all())
            excess = ((found - expected).abs() - tolerance).max().item() if found.numel() else 0.0
            assert excess <= 0, f"weights differ by {excess} more than rounding can make them"
        self._take_state(param, state)
        return acted

    def check_untouched(self, param: torch.Tensor, state: State) -> None:
        """Without a gradient, and where a step is left out or vetoed, nothing may change."""
        assert torch.equal(param.detach().double(), self.theta)
        if self.constraint is not None and "kappa" in state:
            assert float(state["kappa"]) == self.constraint.kappa
            assert float(state["lagmul"]) == self.constraint.lam
            assert int(state["cpr_step"]) == self.constraint.t

    def _constrain(self, c: algorithm1.Constraint, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """kappa and lambda; returns the weights after the constraint and how far rounding may move them."""
        theta, s = self.theta, c.settings
        n, acc = theta.numel(), 16 * self.acc_eps
        reg = float(algorithm1.regularizer(s.reg_function, theta))
        largest = theta.abs().max().item() if n else 0.0
        off = acc * (abs(reg) + (largest if s.reg_function == "std" else 0.0))  # of R
        lam_before, kappa_before, near = c.lam, c.kappa, self._near_an_inflection_point(c, off)
        c.step(theta)  # this one for kappa and lambda; its weights are those of its own lambda
        kappa, lam = float(state["kappa"]), float(state["lagmul"])
        mu = s.kappa_update / algorithm1.divisor(s.reg_function, theta)
        bound = max(kappa, c.kappa) if math.isfinite(max(kappa, c.kappa)) else 0.0
        lam_off = acc * (lam_before + mu * (reg + bound)) + 2 * mu * off
        relaxed = s.adaptive_bounds and lam_before > 0 and min(lam, c.lam) == 0 and max(lam, c.lam) <= lam_off
        if near or relaxed:  # two sides of a decision: either bound is right
            choices = [kappa_before, reg, c.kappa]
            assert any(kappa == k or abs(kappa - k) <= off + acc * abs(k) for k in choices), (kappa, choices)
        else:
            assert kappa == c.kappa or abs(kappa - c.kappa) <= off + acc * abs(c.kappa), (kappa, c.kappa)
        if s.kappa_init_method == "inflection_point":
            assert abs(float(state["reg_ema"]) - c.ema) <= off + acc * c.t * abs(c.ema)
        if not near:
            assert abs(lam - c.lam) <= lam_off, (lam, c.lam, lam_off)
        assert int(state["cpr_step"]) == c.t
        c.lam, c.kappa = lam, kappa
        if lam == 0:
            return theta, torch.zeros_like(theta)
        moved = _moved(s, theta, lam)
        tolerance = 4 * self.eps * (theta.abs() + (moved - theta).abs() + moved.abs())
        if s.reg_function == "std" and n > 1:
            # The direction (theta - mean) / R is that of rounding where a tensor is nearly constant.
            noise = min(2.0, acc * largest / reg) if reg > 0 else 2.0
            tolerance = tolerance + noise * lam / math.sqrt(n - 1) + acc * (moved - theta).abs() + acc * largest
        return moved, tolerance

    def _near_an_inflection_point(self, constraint: algorithm1.Constraint, off: float) -> bool:
        """Whether rounding decides if this step has one."""
        c, s = copy.deepcopy(constraint), constraint.settings
        if s.kappa_init_method != "inflection_point" or c.kappa < math.inf:
            return False
        c.step(self.theta)
        if len(c.samples) < 3:
            return False
        first, second, third = c.samples[-3:]
        scale = 64 * (off + self.acc_eps * (abs(first) + abs(second) + abs(third)))
        return abs((third - second) - (second - first)) <= scale

    def _base_tolerance(self, before: Base, grad: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Roundings of an update's parts: momenta are sums that may cancel, so their summands count."""
        if isinstance(self.base, algorithm1.Adam) and isinstance(before, algorithm1.Adam):
            assert self.base.v is not None
            b1, b2 = self.base.betas
            parts = (1 - b1) * grad.abs() + (b1 * before.m.abs() if before.m is not None else 0)
            spread = (self.base.v / (1 - b2**self.base.t)).sqrt() + self.base.eps
            return 8 * self.eps * self.base.lr * parts / (1 - b1**self.base.t) / spread
        if isinstance(self.base, algorithm1.SGD) and isinstance(before, algorithm1.SGD):
            momentum = self.base.momentum
            parts = grad.abs() + (momentum * before.buffer.abs() if before.buffer is not None else 0)
            return 8 * self.eps * self.base.lr * 2 * parts
        return 64 * self.eps * update.abs() + 1e-12

    def _take_state(self, param: torch.Tensor, state: State) -> None:
        self.take(param)
        if isinstance(self.base, algorithm1.Adam):
            assert int(state["step"]) == self.base.t
            self.base.m, self.base.v = state["exp_avg"].double().clone(), state["exp_avg_sq"].double().clone()
        elif isinstance(self.base, algorithm1.SGD) and self.base.momentum:
            self.base.buffer = state["momentum_buffer"].double().clone()


def _moved(settings: algorithm1.Settings, theta: torch.Tensor, lam: float) -> torch.Tensor:
    """Line 6 of Algorithm 1, or its proximal form."""
    if settings.step_form == "proximal":
        return algorithm1.proximal(settings.reg_function, theta, lam)
    return theta - lam * algorithm1.gradient(settings.reg_function, theta)
