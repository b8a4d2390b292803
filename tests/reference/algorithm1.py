"""Algorithm 1 of the CPR paper, written to be read: one tensor at a time, float64, the gradient of R by autograd.

Nothing here is taken from `nnunet_cpr.optim`; the tests compare the two. The exception are regularizers and bound rules
that the paper does not have: what R and kappa are is then what `nnunet_cpr.optim` says, while the gradient of R and the
proximal step are found here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nnunet_cpr.optim.regularizers import Regularizer

INF = math.inf
PAPER = ("l2", "l1", "std", "huber")


def regularizer(name: str, theta: Tensor) -> Tensor:
    """R(theta) by its definition."""
    if name == "l2":
        return (theta * theta).sum()
    if name == "l1":
        return theta.abs().sum()
    if name == "std":
        return theta.std(unbiased=True) if theta.numel() >= 2 else (theta * 0).sum()
    if name == "huber":
        return torch.where(theta.abs() < 1, 0.5 * theta * theta, theta.abs() - 0.5).sum()
    return not_in_the_paper(name).value([theta])[0]


def divisor(name: str, theta: Tensor) -> int:
    """What mu is divided by."""
    averaged = name != "std" if name in PAPER else not_in_the_paper(name).averaged
    return max(theta.numel(), 1) if averaged else 1


def not_in_the_paper(name: str) -> "Regularizer":
    """A regularizer of ours; a KeyError if there is none."""
    from nnunet_cpr.optim.regularizers import REGULARIZERS

    return REGULARIZERS[name]


def gradient(name: str, theta: Tensor) -> Tensor:
    """The gradient of R, by autograd."""
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(regularizer(name, theta), theta)
    return grad


def proximal(name: str, theta: Tensor, lam: float) -> Tensor:
    """argmin_x 0.5 ||x - theta||^2 + lam R(x); tests/optim/test_proximal.py verifies it by numerical minimization."""
    if name == "l2":
        return theta / (1 + 2 * lam)
    if name == "l1":
        return torch.sign(theta) * torch.clamp(theta.abs() - lam, min=0)
    if name == "huber":
        return torch.where(theta.abs() < 1 + lam, theta / (1 + lam), theta - lam * torch.sign(theta))
    if name == "std":
        n = theta.numel()
        if n < 2:
            return theta.clone()
        mean = theta.mean()
        length = float((theta - mean).norm())
        keep = max(0.0, 1 - lam / (math.sqrt(n - 1) * length)) if length > 0 else 0.0
        return mean + (theta - mean) * keep
    return minimizer(name, theta, lam)


def minimizer(name: str, theta: Tensor, lam: float) -> Tensor:
    """argmin_x 0.5 ||x - theta||^2 + lam R(x) of a smooth, convex R, by Newton's method."""
    x = theta.detach().clone()
    for _ in range(200):
        slope = x - theta + lam * gradient(name, x)
        if slope.norm() <= 1e-14 * theta.norm():
            return x
        hessian = torch.autograd.functional.hessian(lambda y: regularizer(name, y), x, vectorize=True)
        n = x.numel()
        step = torch.linalg.solve(torch.eye(n, dtype=x.dtype) + lam * hessian.reshape(n, n), slope.reshape(n))
        x = x - step.reshape(x.shape)
    return x


@dataclass
class Settings:
    """What Algorithm 1 needs for one tensor."""

    kappa_init_method: str = "inflection_point"
    kappa_init_param: float | None = None
    reg_function: str = "l2"
    kappa_update: float = 1.0
    reg_step_size: int = 200
    reg_ema_decay: float = 0.99
    step_form: str = "explicit"
    adaptive_bounds: bool = False


@dataclass
class Constraint:
    """lambda, kappa and what the rule remembers, for one tensor."""

    settings: Settings
    lam: float = 0.0
    kappa: float = INF
    t: int = 0
    ema: float = 0.0
    samples: list[float] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)

    def step(self, theta: Tensor) -> Tensor:
        """The constraint's part of one step, at theta_t; returns the new weights."""
        s = self.settings
        r = float(regularizer(s.reg_function, theta))
        self._set_kappa(r)
        mu = s.kappa_update / divisor(s.reg_function, theta)
        before = self.lam
        self.lam = max(0.0, before + mu * (r - self.kappa)) if self.kappa < INF else 0.0
        if s.adaptive_bounds and before > 0 and self.lam == 0:
            self.kappa = r
        self.t += 1
        if self.lam == 0:
            return theta
        if s.step_form == "proximal":
            return proximal(s.reg_function, theta, self.lam)
        return theta - self.lam * gradient(s.reg_function, theta)

    def _set_kappa(self, r: float) -> None:
        s = self.settings
        if s.kappa_init_method == "uniform":
            if self.t == 0:
                assert s.kappa_init_param is not None
                self.kappa = s.kappa_init_param
        elif s.kappa_init_method == "dependent":
            if self.t == 0:
                assert s.kappa_init_param is not None
                self.kappa = s.kappa_init_param * r
        elif s.kappa_init_method == "warm_start":
            if self.t == s.kappa_init_param:
                self.kappa = r
        elif s.kappa_init_method == "inflection_point":
            self._look_for_inflection(r)
        else:
            self._set_kappa_by_our_rule(r)

    def _set_kappa_by_our_rule(self, r: float) -> None:
        from nnunet_cpr.optim.bounds import RULES

        rule = RULES[self.settings.kappa_init_method]
        t, reg, kappa = torch.tensor([float(self.t), r, self.kappa], dtype=torch.float64)
        old = self.memory or {name: torch.tensor(value, dtype=torch.float64) for name, value in rule.state.items()}
        self.memory = {**old, **rule(t, reg, {**old, "kappa": kappa}, vars(self.settings))}
        self.kappa = float(self.memory.pop("kappa"))

    def _look_for_inflection(self, r: float) -> None:
        s = self.settings
        self.ema = r if self.t == 0 else s.reg_ema_decay * self.ema + (1 - s.reg_ema_decay) * r
        if self.kappa < INF or self.t % s.reg_step_size:
            return
        self.samples.append(self.ema)
        if len(self.samples) >= 3:
            a, b, c = self.samples[-3:]
            if c - b < b - a:
                self.kappa = r


@dataclass
class Adam:
    """Adam for one tensor, without weight decay."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    t: int = 0
    m: Tensor | None = None
    v: Tensor | None = None

    def step(self, theta: Tensor, grad: Tensor) -> Tensor:
        self.t += 1
        b1, b2 = self.betas
        self.m = (1 - b1) * grad + (b1 * self.m if self.m is not None else 0)
        self.v = (1 - b2) * grad * grad + (b2 * self.v if self.v is not None else 0)
        m_hat, v_hat = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        return theta - self.lr * m_hat / (v_hat.sqrt() + self.eps)


@dataclass
class SGD:
    """SGD with (Nesterov) momentum for one tensor, without weight decay."""

    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    buffer: Tensor | None = None

    def step(self, theta: Tensor, grad: Tensor) -> Tensor:
        self.buffer = grad if self.buffer is None else self.momentum * self.buffer + grad
        return theta - self.lr * (grad + self.momentum * self.buffer if self.nesterov else self.buffer)


class Reference:
    """Algorithm 1 over a list of tensors; `settings[i] is None` leaves tensor i unregularized."""

    def __init__(
        self, tensors: Sequence[Tensor], settings: Sequence[Settings | None], make_base: Callable[[], Adam | SGD]
    ) -> None:
        """Copy the tensors; `make_base()` gives a fresh Adam or SGD for each."""
        self.theta = [p.detach().double().clone() for p in tensors]
        self.constraints = [Constraint(s) if s is not None else None for s in settings]
        self.bases = [make_base() for _ in tensors]

    def step(self, grads: Sequence[Tensor | None]) -> None:
        """One step; a gradient that is None leaves its tensor alone."""
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            theta = self.theta[i]
            constraint = self.constraints[i]
            if constraint is not None:
                theta = constraint.step(theta)
            self.theta[i] = self.bases[i].step(theta, grad.double())
