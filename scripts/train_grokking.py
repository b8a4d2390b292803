"""Train a one-layer transformer on addition modulo 113, where validation accuracy rises long after the training's.

The task and model of Nanda et al., "Progress measures for grokking via mechanistic interpretability" (2023), which
the CPR paper takes up with Adam, AdamW (weight decay 0.1) and AdamCPR (Kappa-kI0, k = 0.8). What the paper leaves open
is set as in its authors' published script: batches of 512 from shuffled epochs, 4000 of them (32,000 steps), no warmup,
weights of standard deviation 1 / sqrt(width), embeddings regularized too, AdaCPR (--adaptive-bounds).

    python scripts/train_grokking.py --optimizer adamcpr --kappa-init-method dependent --kappa-init-param 0.8
    python scripts/train_grokking.py --optimizer adamw --weight-decay 0.1
    python scripts/train_grokking.py --optimizer adam
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from harness.batches import step_batch
from harness.parsing import run_script
from harness.records import METRICS_FILE, read_table
from harness.settings import Settings, setting

from nnunet_cpr.schedules import warmup_cosine_lr

if TYPE_CHECKING:  # parsing must not wait for torch
    from torch import Tensor, nn

SOLVED = 0.95
"""The validation accuracy at which the task counts as understood."""


@dataclass
class GrokkingSettings(Settings):
    """The settings of a grokking training; the defaults are the paper's AdamCPR run."""

    script: ClassVar[str] = "train_grokking"
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.98), "weight_decay": 0.1, "kappa_init_method": "dependent",
        "kappa_init_param": 0.8, "adaptive_bounds": True, "reg_embedding": True, "max_steps": 4000, "warmup_steps": 0,
        "log_every": 40, "eval_every": 40, "checkpoint_every": 1000,
    }  # fmt: skip

    modulus: int = setting(113, "of the addition", least=2)
    train_share: float = setting(0.3, "of all pairs that is trained on", least=0)
    batch_size: int = setting(512, "pairs in a step, on all processes together", least=1)
    width: int = setting(128, "of the residual stream", least=1)
    heads: int = setting(4, "attention heads", least=1)
    hidden: int = setting(512, "units of the MLP", least=1)


def addition_pairs(modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs (a, b, =) of all pairs, shape (modulus ** 2, 3), and a + b mod modulus, both int64.

    The sign "=" has the number `modulus`.
    """
    a, b = np.divmod(np.arange(modulus**2), modulus)
    return np.stack([a, b, np.full_like(a, modulus)], axis=1), (a + b) % modulus


def split_pairs(count: int, train_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training and the validation pairs, a function of the seed.

    Raises:
        ValueError: one of the two is empty.
    """
    order = np.random.default_rng(seed).permutation(count)
    train = int(count * train_share)
    if not 0 < train < count:
        raise ValueError(f"train_share {train_share} leaves {train} of {count} pairs for training, but some for each")
    return order[:train], order[train:]


def build_model(settings: GrokkingSettings) -> "nn.Module":
    """Return the transformer: learned positions, no normalization, ReLU, its output at the last position only.

    Weights start normal with standard deviation 1 / sqrt(width), biases zero.
    """
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    width, heads, modulus = settings.width, settings.heads, settings.modulus
    if width % heads:
        raise ValueError(f"a width of {width} cannot be divided into {heads} heads")

    class OneLayerTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(modulus + 1, width), nn.Embedding(3, width)
            self.query, self.attention_output = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
            self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
            self.mlp_in, self.mlp_out = nn.Linear(width, settings.hidden), nn.Linear(settings.hidden, width)
            self.output = nn.Linear(width, modulus + 1, bias=False)
            for param in self.parameters():
                nn.init.normal_(param, std=width**-0.5 if param.ndim > 1 else 0)

        def forward(self, inputs: "Tensor") -> "Tensor":
            """Map (batch, 3) to logits (batch, modulus + 1). The last position sees all, so that no mask is needed."""
            x = self.tokens(inputs) + self.positions.weight
            split = (len(inputs), -1, heads, width // heads)
            query, key, value = (
                m(part).view(split).transpose(1, 2)
                for m, part in ((self.query, x[:, -1:]), (self.key, x), (self.value, x))
            )
            attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)
            last = x[:, -1] + self.attention_output(attended)
            logits: Tensor = self.output(last + self.mlp_out(torch.relu(self.mlp_in(last))))
            return logits

    return OneLayerTransformer()


def train(settings: GrokkingSettings) -> None:
    """Train, evaluate on all other pairs, write the folder of the run, and say when the task was understood."""
    inputs, sums = addition_pairs(settings.modulus)
    train_pairs, val_pairs = split_pairs(len(sums), settings.train_share, settings.seed)

    import torch
    from harness.optimizers import build_optimizer, set_lr
    from harness.run import Run
    from torch.nn.functional import cross_entropy

    about = {"pairs": len(sums), "training pairs": len(train_pairs)}
    metrics = ("val_loss", "val_accuracy", "train_accuracy")
    run = Run(settings, metrics, ("pairs", settings.batch_size), about)
    processes = run.accelerator.num_processes
    if wrong := [n for n in (settings.batch_size, len(train_pairs) % settings.batch_size) if n % processes]:
        raise ValueError(
            f"a batch of {wrong[0]} (batch_size, or what is left of {len(train_pairs)} pairs at the end of an epoch) "
            f"cannot be shared equally among {processes} processes"
        )
    model = build_model(settings).to(run.device)
    model, optimizer = run.prepare(model, build_optimizer(model, settings))
    all_inputs, all_sums = (torch.from_numpy(array).to(run.device) for array in (inputs, sums))

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        logits = run.plain(model)(all_inputs)
        right = (logits.argmax(dim=1) == all_sums).float()
        return {
            "val_loss": float(cross_entropy(logits[val_pairs], all_sums[val_pairs])),
            "val_accuracy": float(right[val_pairs].mean()),
            "train_accuracy": float(right[train_pairs].mean()),
        }

    for step in run.steps():
        lr = warmup_cosine_lr(step, settings.lr, settings.warmup, settings.max_steps, final_share=1.0)  # constant
        set_lr(optimizer, lr)
        chosen = step_batch(len(train_pairs), settings.batch_size, settings.seed, step, drop_last=False)
        batch = run.share(train_pairs[chosen])
        loss = cross_entropy(model(all_inputs[batch]), all_sums[batch])
        run.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(step, loss, lr, evaluate)
    run.finish()
    if run.main:
        solved = [step for step, value in read_table(run.folder / METRICS_FILE)["val_accuracy"] if value >= SOLVED]
        print(f"validation accuracy of {SOLVED:.0%}: " + (f"from step {solved[0]}" if solved else "not reached"))


if __name__ == "__main__":
    sys.exit(run_script(GrokkingSettings, train, __doc__))
