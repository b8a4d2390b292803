"""The regularization functions R(theta) and their constraint steps (paper, section 4 and Algorithm 1).

A regularizer is a class below and an entry of `REGULARIZERS`. Trainers' names, flags, help texts, checks and tests take
it from there; CONTRIBUTING.md says how to add one. This module does not import torch, because programs that only parse
arguments read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from nnunet_cpr.optim.reductions import each, local, over_shards, power_sums, scale_, times

if TYPE_CHECKING:
    from torch import Tensor

STEP_FORMS = {
    "explicit": "theta - lambda grad R(theta), as in Algorithm 1",
    "proximal": "the implicit step, which cannot flip signs",
}
"""The forms of the constraint step. The proximal one gives argmin_x 1/2 |x - theta|^2 + lambda R(x)."""


class Regularizer(ABC):
    """A regularization function R over a list of tensors that share device, dtype and sharding."""

    name: ClassVar[str]
    """The value of `reg_function`, and the part of a trainer's name: letters and digits, no underscore."""
    meaning: ClassVar[str]
    """What R is, after "R = "."""
    averaged: ClassVar[bool] = True
    """Whether mu is divided by the element count, because R grows with it."""

    @abstractmethod
    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return R of each tensor: shape (len(params),), float32, or float64 for float64 weights.

        Args:
            params: the tensors; of sharded ones (DTensor), R is that of the whole tensor.
        """

    @abstractmethod
    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Apply the constraint step in place.

        Args:
            params: the tensors to move.
            lagmul: the multiplier lambda of each tensor, shape (len(params),).
            proximal: whether to take the proximal step; otherwise the explicit one.
            at: the weights at which to compute what is subtracted from `params`; None: `params` themselves.
        """

    @abstractmethod
    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return the share of a weight that the explicit step removes; above 1 the step flips signs.

        Args:
            lagmul: the multiplier lambda of each tensor, shape (len(numel),).
            reg: R of each tensor.
            numel: the element count of each tensor.
        """

    def rates(self, mu: float, params: Sequence[Tensor]) -> list[float]:
        """Return the step size of lambda for each tensor: mu / n with n elements if R is averaged, else mu.

        Args:
            mu: the setting `kappa_update`.
            params: the tensors; of sharded ones, n is that of the whole tensor.
        """
        return [mu / max(1, param.numel()) if self.averaged else mu for param in params]


class Elementwise(Regularizer):
    """A regularizer whose step moves each element by itself."""

    @abstractmethod
    def removed(self, theta: Tensor, lagmul: Tensor, proximal: bool) -> Tensor:
        """Return what the constraint step subtracts from the weights of one tensor.

        Args:
            theta: the weights, or this rank's part of them, in the dtype of `lagmul`.
            lagmul: the multiplier lambda of the tensor, a scalar.
            proximal: whether to take the proximal step; otherwise the explicit one.
        """

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Subtract `removed` from each tensor."""
        for param, theta, lam in zip(params, at or params, lagmul.unbind(), strict=True):
            local(param).sub_(self.removed(local(theta).detach().to(lam.dtype), lam, proximal))


class L2(Regularizer):
    """R = sum(theta^2), the squared norm. Explicit: theta (1 - 2 lambda). Proximal: theta / (1 + 2 lambda)."""

    name = "l2"
    meaning = "the squared l2 norm"

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
        scale_(parts, factors)

    @staticmethod
    def factors(lagmul: Tensor, proximal: bool) -> Tensor:
        """Return what each tensor is multiplied by."""
        return 1 / (1 + 2 * lagmul) if proximal else 1 - 2 * lagmul

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return 2 lambda."""
        return 2 * lagmul


class L1(Elementwise):
    """R = sum(|theta|). Explicit: theta - lambda sign(theta). Proximal: soft threshold at lambda."""

    name = "l1"
    meaning = "the l1 norm"

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the sum of absolute values of each tensor."""
        return over_shards(power_sums([local(p) for p in params], 1), params)

    def removed(self, theta: Tensor, lagmul: Tensor, proximal: bool) -> Tensor:
        """Return lambda toward zero; proximal stops there, explicit may pass it."""
        return theta.clamp(-lagmul, lagmul) if proximal else theta.sign() * lagmul

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return lambda over the mean |theta|: above 1 the typical weight changes its sign."""
        return times(_ratio(lagmul, reg), numel)


class Huber(Elementwise):
    """R = sum(theta^2 / 2 where |theta| < 1, else |theta| - 1/2), with grad R = theta clamped to [-1, 1]."""

    name = "huber"
    meaning = "the Huber norm"

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the sum of the Huber function of each tensor's elements."""

        def huber(x: Tensor) -> Tensor:
            absolute = x.abs()
            inner = absolute.clamp(max=1)
            return (inner * (absolute - inner / 2)).sum()

        return over_shards(each(huber, [local(p) for p in params]), params)

    def removed(self, theta: Tensor, lagmul: Tensor, proximal: bool) -> Tensor:
        """Return lambda * grad R, at theta (explicit) or at the minimizer (proximal: theta / (1 + lambda) inside)."""
        return (theta / (1 + lagmul) if proximal else theta).clamp(-1, 1) * lagmul

    def shrinkage(self, lagmul: Tensor, reg: Tensor, numel: Sequence[int]) -> Tensor:
        """Return lambda, the share taken of weights below 1."""
        return lagmul


class Std(Regularizer):
    """R = the unbiased standard deviation, 0 for fewer than two elements. The mean of a tensor stays as it is.

    Both steps scale theta - mean: explicit by 1 - c, proximal by max(0, 1 - c), with c = lambda / ((n - 1) R).
    """

    name = "std"
    meaning = "the standard deviation"
    averaged = False

    def value(self, params: Sequence[Tensor]) -> Tensor:
        """Return the standard deviation of each tensor."""
        return self._moments(params)[1]

    def step(
        self, params: Sequence[Tensor], lagmul: Tensor, proximal: bool, at: Sequence[Tensor] | None = None
    ) -> None:
        """Pull every element toward its tensor's mean."""
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
        mean = times(over_shards(each(_total, parts), params), shares)
        centered = [part.to(m.dtype) - m for part, m in zip(parts, mean.unbind(), strict=True)]
        # The rounding of `mean` would enter the variance; what is left of the sum corrects it (two-pass formula).
        rest = times(over_shards(each(_total, centered), params), shares)
        squares = over_shards(each(lambda x: x.square().sum(), centered), params) - times(rest**2, counts)
        return mean + rest, times(squares.clamp(min=0), [1 / max(n - 1, 1) for n in counts]).sqrt()


REGULARIZERS: dict[str, Regularizer] = {regularizer.name: regularizer for regularizer in (L2(), L1(), Std(), Huber())}


def _total(x: Tensor) -> Tensor:
    return x.sum()


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator / denominator).where(denominator > 0, 0)
