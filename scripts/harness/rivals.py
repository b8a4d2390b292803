"""Other ways than weight decay and CPR to regularize: what the paper compares with, and what users ask for.

All are Adam with something done to the tensors that weight decay would act on. Their strength is `weight_decay`.
"""

from collections.abc import Callable
from typing import Any

import torch

Groups = list[dict[str, Any]]


class Rival(torch.optim.Adam):
    """Adam, before whose step `before`, and after whose step `after`, is done to each group with a strength."""

    def __init__(self, params: Groups, weight_decay: float = 0.0, **options: Any) -> None:
        """Take the strength from the groups' `weight_decay`, else from the argument."""
        # A key of its own: Adam's weight decay is the L2 penalty.
        super().__init__(
            [{"strength": group.pop("weight_decay", weight_decay), **group} for group in params], **options
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        chosen = [group for group in self.param_groups if group["strength"]]
        done = [self.before(group, _with_gradients(group)) for group in chosen]
        super().step()
        for group, before in zip(chosen, done, strict=True):
            self.after(group, _with_gradients(group), before)
        return loss

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> Any:
        """Do what comes before Adam's step; what it returns is given to `after`."""

    def after(self, group: dict[str, Any], tensors: list[torch.Tensor], before: Any) -> None:
        """Do what comes after Adam's step."""


class AdaDecay(Rival):
    """Weight decay by how large a gradient is among those of its tensor (Nakamura and Hong 2019, arXiv:1907.08931).

    A weight's decay is strength x 2 / (1 + exp(-4 z)), with z its gradient's magnitude, standardized in the tensor.
    """

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> None:
        """Shrink the weights."""
        for tensor in tensors:
            size = tensor.grad.abs()  # type: ignore[union-attr]
            z = (size - size.mean()) / (size.std(correction=0) + 1e-12)
            tensor.mul_(1 - group["lr"] * group["strength"] * 2 * torch.sigmoid(4 * z))


class AWD(Rival):
    """Weight decay in proportion to the gradient's norm (Ghiasi et al. 2023, arXiv:2210.00094), decoupled.

    The decay is a running average of strength x |gradient| / |weights|, over all tensors of the group.
    """

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> None:
        """Shrink the weights."""
        if not tensors:
            return
        gradients, weights = (
            torch.stack([one.square().sum() for one in some]).sum().sqrt()
            for some in ([tensor.grad for tensor in tensors], tensors)
        )
        decay = 0.1 * group.get("decay", 0.0) + 0.9 * group["strength"] * gradients / (weights + 1e-8)
        group["decay"] = decay
        for tensor in tensors:
            tensor.mul_(1 - group["lr"] * decay)


class CautiousDecay(Rival):
    """Weight decay only where it goes the same way as Adam's update (Chen et al. 2025, arXiv:2510.12402)."""

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Remember the weights."""
        return [tensor.clone() for tensor in tensors]

    def after(self, group: dict[str, Any], tensors: list[torch.Tensor], before: list[torch.Tensor]) -> None:
        """Shrink the weights by a share of what they were."""
        for tensor, old in zip(tensors, before, strict=True):
            same_way = (old - tensor) * old >= 0
            tensor.sub_(old.where(same_way, 0), alpha=group["lr"] * group["strength"])


class InitialNorm(Rival):
    """Each tensor keeps the L2 norm that it was initialized with. Its strength only says whether it does (not 0)."""

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the norms."""
        return [tensor.norm() for tensor in tensors]

    def after(self, group: dict[str, Any], tensors: list[torch.Tensor], before: list[torch.Tensor]) -> None:
        """Rescale to the first norm."""
        for tensor, norm in zip(tensors, before, strict=True):
            # Kept only now: Adam takes a tensor with a state for one that it has seen.
            first = self.state[tensor].setdefault("initial_norm", norm)
            tensor.mul_(first / tensor.norm().clamp(min=1e-12))


RIVALS = {"adadecay": AdaDecay, "awd": AWD, "cautious": CautiousDecay, "initialnorm": InitialNorm}
"""By the name that `--optimizer` takes."""


def _with_gradients(group: dict[str, Any]) -> list[torch.Tensor]:
    return [tensor for tensor in group["params"] if tensor.grad is not None]
