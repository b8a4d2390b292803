"""Learning rate schedules as pure functions of the step, so that a resumed training needs no scheduler state."""

import math


def warmup_poly_lr(step: int, peak_lr: float, warmup_steps: int, total_steps: int, exponent: float = 0.9) -> float:
    """Learning rate of the 0-based step: linear warmup to `peak_lr`, then polynomial decay to zero.

    The warmup's first step has `peak_lr / warmup_steps`, its last has `peak_lr`. With t steps after the warmup, of the
    T that follow it, the rate is `peak_lr * (1 - t / T) ** exponent`; it reaches 0 only after the last step.
    """
    if step < warmup_steps:
        return peak_lr * (step + 1) / warmup_steps
    return peak_lr * float((1 - (step - warmup_steps) / (total_steps - warmup_steps)) ** exponent)


def warmup_cosine_lr(step: int, peak_lr: float, warmup_steps: int, total_steps: int, final_share: float = 0.1) -> float:
    """Learning rate of the 0-based step: linear warmup to `peak_lr`, then half a cosine to `final_share * peak_lr`.

    The warmup is that of `warmup_poly_lr`. The first step after it has `peak_lr`; the final value would be
    reached at step `total_steps`, one after the last.
    """
    if step < warmup_steps:
        return peak_lr * (step + 1) / warmup_steps
    share = (step - warmup_steps) / (total_steps - warmup_steps)
    return peak_lr * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * share)))
