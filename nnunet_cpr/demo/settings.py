"""What one demo run is: its length, seed, fold, device and precision, and the two trainers that follow from them."""

import math
from dataclasses import dataclass

STEPS = 240
"""The demo is to take eight minutes at most on two cores."""
WEIGHT_DECAY = "weight decay"
CPR = "CPR"
EPOCHS_AIMED_AT = 20


@dataclass(frozen=True)
class Settings:
    """Settings of a run. Both trainings get the same steps, seed, fold, device and precision."""

    steps: int
    seed: int
    fold: int
    device: str
    bf16: bool

    def __post_init__(self) -> None:
        """Refuse step counts that do not divide into epochs."""
        if self.steps < 10 or self.steps % 10:
            raise ValueError(f"--steps {self.steps}: must be a multiple of 10, and at least 10")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")

    @property
    def epochs(self) -> int:
        """The divisor of `steps` that is nearest to 20: an epoch ends with a point of the curves and a checkpoint."""
        small = [n for n in range(1, math.isqrt(self.steps) + 1) if self.steps % n == 0]
        divisors = [*small, *(self.steps // n for n in small)]
        return min(divisors, key=lambda n: max(n / EPOCHS_AIMED_AT, EPOCHS_AIMED_AT / n))

    @property
    def warm_start(self) -> int:
        """Steps until CPR fixes its bounds: half of the training.

        By then the loss of the training with weight decay has made four fifths of its way (seed 0, 240 steps: 0.79;
        after a quarter of the steps it was 0.62; means of three epochs). So the weights are near the size that they
        need, and in half of the training the bounds act.
        """
        return self.steps // 2

    @property
    def trainers(self) -> dict[str, str]:
        """The trainer's name for each method; it carries everything but the fold and the device."""
        length = f"{self.epochs}epochs_{self.steps // self.epochs}iters_seed{self.seed}" + "_bf16" * self.bf16
        return {
            WEIGHT_DECAY: f"nnUNetTrainerSGD_wd3e-5_{length}",
            CPR: f"nnUNetTrainerCPR_ws{self.warm_start}_{length}",
        }

    @property
    def precision(self) -> str:
        """The number format of the forward passes, for the report."""
        if self.bf16:
            return "bfloat16 autocast (this CPU computes in it natively)"
        return "float16 autocast (nnU-Net's own on CUDA)" if self.device == "cuda" else "float32"
