"""Other ways than weight decay and CPR to regularize: what the paper compares with, and what users ask for.

All are Adam with something done to the tensors that weight decay would act on. Their strength is `weight_decay`.
"""

from collections.abc import Callable
from typing import Any

import torch

from nnunet_cpr.schedules import warmup_cosine_lr

Groups = list[dict[str, Any]]


class Rival(torch.optim.Adam):
    """Adam, before whose step `before`, and after whose step `after`, is done to each group with a strength."""

    def __init__(self, params: Groups, weight_decay: float = 0.0, **options: Any) -> None:
        """Take the strength from the groups' `weight_decay`, else from the argument."""
        # A key of its own: Adam's weight decay is the L2 penalty.
        super().__init__(
            [{"strength": group.pop("weight_decay", weight_decay), **group} for group in params], **options
        )
        # As fused Adam it would get gradients times GradScaler's factor, and steps that GradScaler skips.
        self._step_supports_amp_scaling = False

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
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        ratio = _norm(gradients) / (_norm(tensors) + 1e-8)
        decay = 0.1 * group.get("decay", 0.0) + 0.9 * group["strength"] * ratio
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
    """The norm of all regularized weights together stays what it was, by scaling all of them after each step.

    It is that of the initial weights times `initial_scale` (Franke et al. 2024, as in the authors' CIFAR100 script).
    The strength only says whether it is done (not 0).
    """

    def __init__(self, params: Groups, initial_scale: float = 1.0, **options: Any) -> None:
        """Scale the weights."""
        super().__init__(params, **options)
        with torch.no_grad():
            for group in self.param_groups:
                if group["strength"]:
                    for tensor in _not_frozen(group):
                        tensor.mul_(initial_scale)

    def before(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> None:
        """Keep the first norm."""
        if "norm" not in group and (trained := _not_frozen(group)):
            group["norm"] = _norm(trained)

    def after(self, group: dict[str, Any], tensors: list[torch.Tensor], before: None) -> None:
        """Scale to the first norm."""
        if trained := _not_frozen(group):
            scale = group["norm"] / _norm(trained).clamp(min=1e-12)
            for tensor in trained:
                tensor.mul_(scale)


class ScheduledDecay(torch.optim.AdamW):
    """AdamW whose weight decay falls to a tenth of its peak, with half a cosine over the whole training.

    As the authors of CPR compare with (Franke et al. 2024, their script for CIFAR100).

    Args:
        params: groups, whose `weight_decay` is the peak.
        total_steps: of the training.
        options: of AdamW.
    """

    def __init__(self, params: Groups, total_steps: int, **options: Any) -> None:
        """Keep the peaks in the groups, where checkpoints have them."""
        super().__init__(params, **options)
        self._step_supports_amp_scaling = False  # or steps that GradScaler skips would count
        for group in self.param_groups:
            group.update(peak_weight_decay=group["weight_decay"], steps_done=0, total_steps=total_steps)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        for group in self.param_groups:
            peak, step = group["peak_weight_decay"], group["steps_done"]
            group["weight_decay"] = warmup_cosine_lr(step, peak, 0, group["total_steps"])
            group["steps_done"] = step + 1
        loss: float | None = super().step(closure)
        return loss


RIVALS = {
    "adadecay": AdaDecay,
    "awd": AWD,
    "cautious": CautiousDecay,
    "initialnorm": InitialNorm,
    "scheduled": ScheduledDecay,
}
"""By the name that `--optimizer` takes."""


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


def _not_frozen(group: dict[str, Any]) -> list[torch.Tensor]:
    return [tensor for tensor in group["params"] if tensor.requires_grad]


def _with_gradients(group: dict[str, Any]) -> list[torch.Tensor]:
    return [tensor for tensor in group["params"] if tensor.grad is not None]
