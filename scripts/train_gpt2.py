"""Train the paper's GPT2 with AdamW or AdamCPR: the same script on a laptop and, with torchrun, on several nodes.

Without flags it trains a tiny model on the bytes of Python's standard library, offline, in a minute or two:

    python scripts/train_gpt2.py --optimizer adamcpr
    python scripts/train_gpt2.py --optimizer adamw

At the paper's scale (scripts/prepare_openwebtext.py makes the data):

    torchrun --nproc-per-node 8 scripts/train_gpt2.py --config configs/gpt2/s_adamcpr_ip.yaml --data openwebtext
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from harness.parsing import run_script
from harness.settings import Settings, setting
from harness.tokens import Tokens, load_tokens

from nnunet_cpr.schedules import warmup_cosine_lr

if TYPE_CHECKING:  # parsing must not wait for torch
    import torch
    from transformers import GPTNeoXForCausalLM

SIZES = {"tiny": (128, 4, 4), "s": (768, 12, 12), "m": (1024, 24, 16), "l": (1280, 36, 20), "xl": (1600, 36, 25)}
"""Width, layers, attention heads: paper, Table H.1, and a tiny one."""
ROTARY_SHARE = 0.5
INIT_STD = 0.02


@dataclass
class GPT2Settings(Settings):
    """The settings of a GPT2 training; the defaults are those of the tiny model on embedded text."""

    script: ClassVar[str] = "train_gpt2"
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-9, "max_steps": 400, "eval_every": 50, "trace_every": 10,
    }  # fmt: skip

    size: str = setting("tiny", "of the model", choices=SIZES)
    data: str | None = setting(
        None, "folder of prepare_openwebtext.py, text file, or folder of text (default: embedded)", kind=Path
    )
    val_share: float = setting(0.05, "of text that is for validation", least=0)
    context: int = setting(128, "tokens in a sequence", least=1)
    batch_size: int = setting(16, "sequences in a step, on all processes together", least=1)
    accumulate: int = setting(1, "forward and backward passes that a step is divided into", least=1)
    dropout: float = setting(0.1, "of embeddings, attention and residuals", least=0)
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0: any", least=0)
    eval_sequences: int = setting(64, "validation sequences in an evaluation", least=1)


def build_model(settings: GPT2Settings, vocab_size: int) -> "GPTNeoXForCausalLM":
    """Return the untrained model: transformers' GPTNeoX with GPT2's sequential blocks and tied embeddings."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    width, layers, heads = SIZES[settings.size]
    config = GPTNeoXConfig(  # type: ignore[call-arg]  # transformers' decorator hides that it takes any setting
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=settings.context, rotary_pct=ROTARY_SHARE,
        attention_dropout=settings.dropout, hidden_dropout=settings.dropout, attention_bias=True,
        initializer_range=INIT_STD, tie_word_embeddings=True, use_parallel_residual=False, use_cache=False,
        bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    """Return the sequences of `context` + 1 tokens at `starts`, int64, of shape (len(starts), context + 1)."""
    return np.stack([tokens[start : start + context + 1] for start in starts]).astype(np.int64)


def training_starts(tokens: np.ndarray, settings: GPT2Settings, step: int) -> np.ndarray:
    """Return where a step's sequences start: random, and a function of seed and step alone, for all processes."""
    generator = np.random.default_rng((settings.seed, step))
    return generator.integers(0, len(tokens) - settings.context, settings.batch_size)


def validation_starts(tokens: np.ndarray, settings: GPT2Settings) -> np.ndarray:
    """Return the starts of at most `eval_sequences` sequences, evenly spread and always the same."""
    count = min(settings.eval_sequences, (len(tokens) - 1) // settings.context)
    return np.linspace(0, len(tokens) - settings.context - 1, count).astype(np.int64)


def sequence_loss(model: "torch.nn.Module", sequences: "torch.Tensor") -> "torch.Tensor":
    """Return the mean cross entropy of each next token in sequences of shape (batch, context + 1)."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=sequences[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())


def load_data(settings: GPT2Settings) -> Tokens:
    """Return the tokens. Raises ValueError where a split is shorter than one sequence."""
    tokens = load_tokens(settings.data, settings.val_share)
    for name, part in (("training", tokens.train), ("validation", tokens.val)):
        if len(part) <= settings.context:
            raise ValueError(f"{len(part)} {name} tokens are too few for a context of {settings.context}")
    return tokens


def train(settings: GPT2Settings) -> None:
    """Train, evaluate and write the folder of the run."""
    tokens = load_data(settings)

    import torch
    from harness.optimizers import build_optimizer, set_lr
    from harness.run import Run

    items = ("tokens", settings.batch_size * settings.context)
    run = Run(settings, ("val_loss", "val_perplexity"), items, tokens.about)
    processes = run.accelerator.num_processes
    if settings.batch_size % (processes * settings.accumulate):
        raise ValueError(
            f"batch_size {settings.batch_size} cannot be divided into {processes} processes "
            f"x {settings.accumulate} passes (accumulate)"
        )
    model = build_model(settings, tokens.vocab_size).to(run.device)
    model, optimizer = run.prepare(model, build_optimizer(model, settings))

    def batch(part: np.ndarray, starts: np.ndarray) -> torch.Tensor:
        sequences = windows(part, starts, settings.context)
        if sequences.max() >= tokens.vocab_size:
            raise ValueError(
                f"{tokens.about['source']} holds the token {sequences.max()}, but its vocabulary ends at "
                f"{tokens.vocab_size - 1}; it is damaged: prepare it again"
            )
        return torch.from_numpy(sequences).to(run.device)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        """Loss over the validation sequences, divided among the processes; those that cannot be shared are left out."""
        starts = validation_starts(tokens.val, settings)
        starts = run.share(starts[: max(processes, len(starts) // processes * processes)])
        at_once = max(1, settings.batch_size // (processes * settings.accumulate))
        model.eval()
        parts = [starts[i : i + at_once] for i in range(0, len(starts), at_once)]
        losses = [sequence_loss(model, batch(tokens.val, part)) * len(part) for part in parts]
        model.train()
        loss = float(run.mean(torch.stack(losses).sum() / len(starts)))
        return {"val_loss": loss, "val_perplexity": math.exp(min(loss, 700))}

    for step in run.steps():
        lr = warmup_cosine_lr(step, settings.lr, settings.warmup, settings.max_steps)
        set_lr(optimizer, lr)
        sequences = batch(tokens.train, run.share(training_starts(tokens.train, settings, step)))
        losses = []
        for index, part in enumerate(sequences.chunk(settings.accumulate)):
            last = index == settings.accumulate - 1
            with run.synchronize(model, last):
                loss = sequence_loss(model, part) / settings.accumulate
                run.accelerator.backward(loss)
            losses.append(loss.detach())
        run.accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(step, torch.stack(losses).sum(), lr, evaluate)
    run.finish()


if __name__ == "__main__":
    sys.exit(run_script(GPT2Settings, train, __doc__))
