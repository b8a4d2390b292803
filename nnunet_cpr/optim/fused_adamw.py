"""Where there is no compiled kernel: the constraint step of l2 (CPU, float32) inside torch's own fused AdamW.

AdamW multiplies the weights by 1 - lr * weight_decay before Adam's update. With weight_decay = (1 - keep) / lr that is
our factor, so the weights are written once instead of twice; R is still read before. A tensor's factor is its own,
hence a call each. There is no such way for SGD, whose weight decay goes through the momentum.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SMALLEST_LR = 1e-100  # (1 - keep) / lr must stay finite; float32 holds no factor that overflows here


def covers(
    update: str, group: Mapping[str, Any], params: Sequence[Tensor], states: Sequence[Mapping[str, Any]]
) -> bool:
    """Return whether :func:`shrink_and_update` can do the constraint step and the update of these tensors alike."""
    return (
        update == "adam"
        and bool(group.get("fused"))
        and group["reg_function"] == "l2"
        and not group["amsgrad"]
        and not torch.compiler.is_compiling()
        and params[0].is_cpu
        and params[0].dtype == torch.float32
        and not hasattr(params[0], "device_mesh")
        and float(group["lr"]) > _SMALLEST_LR
        and all("exp_avg" in state for state in states)
    )


def shrink_and_update(
    update: str, group: Mapping[str, Any], params: Sequence[Tensor], keep: Sequence[float], states: Sequence[Any]
) -> None:
    """Multiply each tensor by its `keep` and do Adam's update, its state included, in one pass."""
    lr = float(group["lr"])
    beta1, beta2 = (float(beta) for beta in group["betas"])
    with torch.no_grad():
        torch._foreach_add_([state["step"] for state in states], 1)
        for param, factor, state in zip(params, keep, states, strict=True):
            gradient: Any = param.grad  # not None: such tensors are left out before
            torch._fused_adamw_(
                [param],
                [gradient],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"]],
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=(1 - factor) / lr,
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )
    # torch's fused optimizers change weights without counting it: autograd must still notice.
    torch.autograd.graph.increment_version(list(params))
