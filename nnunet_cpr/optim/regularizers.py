"""The regularisation functions R(theta) and their constraint steps (paper, section 4 and Algorithm 1).

A step is `explicit`, theta - lambda * grad R(theta), as in Algorithm 1, or `proximal`, the implicit form
argmin_x 1/2 ||x - theta||^2 + lambda R(x), which never flips a sign however large lambda is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_cpr.optim.reductions import each, local, over_shards, power_sums, times


class Regularizer(ABC):
    """A regularisation function R over a list of tensors that share device, dtype and sharding.

    `averaged`: mu is divided by the element count, because R grows with it (l2, l1, huber; not std).
    """

    averaged = True

    def rates(self, mu: float, params: Sequence[Tensor]) -> list[float]:
        """Return the step size of each tensor's lambda: mu / n, or mu where R does not grow with the element count."""
        return [mu / max(1, param.numel()) if self.averaged else mu for param in params]

    @abstractmethod
    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return R of each tensor: shape (len(params),), float32, or float64 for float64 weights."""

    @abstractmethod
    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Apply the constraint step in place, with one multiplier a tensor: `lagmul` of shape (len(params),).

        What is subtracted is computed at the weights `at`, by default `params` themselves.
        """

    @abstractmethod
    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return the share of a weight that the explicit step removes; above 1 the step flips signs."""


class L2(Regularizer):
    """R = sum(theta^2), the squared norm. Explicit: theta (1 - 2 lambda). Proximal: theta / (1 + 2 lambda)."""

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the sum of squares of each tensor."""
        return over_shards(power_sums([local(p) for p in params], 2), params)

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Scale each tensor in place, without a temporary; or subtract the share of `at`."""
        parts = [local(p) for p in params]
        if at is not None:
            shares = 2 * lagmul / (1 + 2 * lagmul) if proximal else 2 * lagmul
            for part, theta, share in zip(parts, at, shares.unbind(), strict=True):
                part.sub_(local(theta).to(share.dtype) * share)
            return
        factors = self.factors(lagmul, proximal)
        torch._foreach_mul_(parts, [_full_precision(f, p) for p, f in zip(parts, factors.unbind(), strict=True)])

    @staticmethod
    def factors(lagmul: Tensor, proximal: bool) -> Tensor:
        """Return what each tensor is multiplied by."""
        return 1 / (1 + 2 * lagmul) if proximal else 1 - 2 * lagmul

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return 2 lambda."""
        return 2 * lagmul


class L1(Regularizer):
    """R = sum(|theta|). Explicit: theta - lambda sign(theta). Proximal: soft threshold at lambda."""

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the sum of absolute values of each tensor."""
        return over_shards(power_sums([local(p) for p in params], 1), params)

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Move every weight by lambda towards zero; proximal stops there, explicit may pass it."""
        for param, theta, lam in zip(params, at or params, lagmul.unbind(), strict=True):
            x, wide = local(param), local(theta).detach().to(lam.dtype)
            x.sub_(wide.clamp(-lam, lam) if proximal else wide.sign() * lam)

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return lambda over the mean |theta|: above 1 the typical weight changes its sign."""
        return times(_ratio(lagmul, reg), numel)


class Huber(Regularizer):
    """R = sum(theta^2 / 2 where |theta| < 1, else |theta| - 1/2), with grad R = theta clamped to [-1, 1]."""

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the sum of the Huber function of each tensor's elements."""

        def huber(x: Tensor) -> Tensor:
            absolute = x.abs()
            inner = absolute.clamp(max=1)
            return (inner * (absolute - inner / 2)).sum()

        return over_shards(each(huber, [local(p) for p in params]), params)

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Subtract lambda * grad R, at theta (explicit) or at the minimiser (proximal: theta / (1 + lambda) inside)."""
        for param, theta, lam in zip(params, at or params, lagmul.unbind(), strict=True):
            x, wide = local(param), local(theta).detach().to(lam.dtype)
            x.sub_((wide / (1 + lam) if proximal else wide).clamp(-1, 1) * lam)

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return lambda, the share taken of weights below 1."""
        return lagmul


class Std(Regularizer):
    """R = the unbiased standard deviation, 0 for fewer than two elements. The mean of a tensor stays as it is.

    Both steps scale theta - mean: explicit by 1 - c, proximal by max(0, 1 - c), with c = lambda / ((n - 1) R).
    """

    averaged = False

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the standard deviation of each tensor."""
        return self._moments(params)[1]

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Pull every element towards its tensor's mean."""
        mean, std = self._moments(at or params)
        share = self.shrinkage(lagmul, std, [p.numel() for p in params])
        if proximal:
            share = share.clamp(max=1)
        for param, theta, m, c in zip(params, at or params, mean.unbind(), share.unbind(), strict=True):
            x, wide = local(param), local(theta).detach().to(m.dtype)
            x.sub_((wide - m) * c)

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return lambda / ((n - 1) R); 0 for a constant tensor, which has no spread to take away."""
        return times(_ratio(lagmul, reg), [1 / max(n - 1, 1) for n in numel])

    def _moments(self, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        parts = [local(p) for p in params]
        counts = [max(p.numel(), 1) for p in params]
        shares = [1 / n for n in counts]
        mean = times(over_shards(each(torch.sum, parts), params), shares)
        centred = [part.to(m.dtype) - m for part, m in zip(parts, mean.unbind(), strict=True)]
        # The rounding of `mean` would enter the variance; what is left of the sum corrects it (two-pass formula).
        rest = times(over_shards(each(torch.sum, centred), params), shares)
        squares = over_shards(each(lambda x: x.square().sum(), centred), params) - times(rest**2, counts)
        return mean + rest, times(squares.clamp(min=0), [1 / max(n - 1, 1) for n in counts]).sqrt()


REGULARIZERS: dict[str, Regularizer] = {"l2": L2(), "l1": L1(), "std": Std(), "huber": Huber()}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0)


def _full_precision(factor: Tensor, param: Tensor) -> Tensor:
    """Shape a scalar so that `param * factor` is computed in the factor's dtype also for bf16 and fp16 weights.

    On CPU a 0-dimensional factor is; elsewhere it would be rounded to the weights' dtype before the multiplication.
    """
    return factor if param.device.type == "cpu" else factor.view((1,) * param.ndim)
