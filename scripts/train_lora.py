"""Fine-tune a language model by LoRA on medical questions, with AdamW, AdamCPR or what competes with them.

Offline, after `make smollm2`: SmolLM2-135M learns which letter a diagnosis' ICD-10-CM code begins with. Reported are
the share of right answers to new questions, and the loss on text of another kind, that is, how much was forgotten:

    python scripts/train_lora.py --optimizer adamcpr --kappa-init-method warm_start
    python scripts/train_lora.py --optimizer adamw --weight-decay 0.1

At the paper's scale, Mistral-7B on PubMedQA:

    torchrun --nproc-per-node 4 scripts/train_lora.py --config configs/lora/mistral_adamcpr_ws2x.yaml
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.batches import step_batch
from harness.language_models import MODELS, load_language_model
from harness.parsing import run_script
from harness.pretrained import checksum
from harness.questions import TASKS, load_questions
from harness.settings import Settings, described, setting

from nnunet_cpr.schedules import warmup_cosine_lr

if TYPE_CHECKING:  # parsing must not wait for torch
    from torch import nn

ADAPTED = ("q_proj", "v_proj")
"""The layers that get a LoRA: the projections to queries and values."""


@dataclass
class LoRASettings(Settings):
    """The settings of a fine-tuning; the defaults are those of SmolLM2 on ICD-10-CM."""

    script: ClassVar[str] = "train_lora"
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3, "max_steps": 200, "eval_every": 50, "trace_every": 10, "kappa_init_method": "warm_start",
    }  # fmt: skip

    size: str = setting("smollm2", "the model; " + described(MODELS), choices=MODELS)
    questions: str = setting("icd", described(TASKS), choices=TASKS)
    train_questions: int = setting(4000, "largest number of training questions", least=1)
    val_questions: int = setting(200, "largest number of validation questions", least=1)
    test: bool = setting(False, "evaluate on test questions, which are for last numbers: tune without")
    old_text: str | None = setting(
        None, "text file that shows what is forgotten (default: Python's documentation of the language)", kind=Path
    )
    old_sequences: int = setting(16, "parts of that text, of `context` tokens, in an evaluation", least=1)
    context: int = setting(64, "tokens that a prompt is shortened to, at its beginning", least=1)
    batch_size: int = setting(8, "questions in a step, on all processes together", least=1)
    rank: int = setting(16, "of the LoRA matrices", least=1)
    alpha: float = setting(32.0, "scale of a LoRA, times its rank", least=0)
    lora_dropout: float = setting(0.05, "of what goes into a LoRA", least=0)
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0: any", least=0)


def add_lora(model: "nn.Module", settings: LoRASettings) -> "nn.Module":
    """Return the model with LoRAs (Hu et al. 2021, arXiv:2106.09685); all other weights are frozen. By peft."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM", r=settings.rank, lora_dropout=settings.lora_dropout,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only multiplies by it, and takes any number
            target_modules=list(ADAPTED),
        ),
    )  # fmt: skip


def read_old_text(path: str | None) -> str:
    """Return the text that shows what is forgotten. Raises ValueError or OSError where it cannot be read."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics.values())
    text = Path(path).read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"--old-text {path} holds no text")
    return text


def train(settings: LoRASettings) -> None:
    """Fine-tune, evaluate and write the folder of the run."""
    s = settings
    questions = load_questions(s.questions, s.train_questions, s.val_questions, s.test)
    old_text = read_old_text(s.old_text)
    if len(questions.train) < s.batch_size:
        raise ValueError(f"{len(questions.train)} training questions are too few for a batch of {s.batch_size}")

    import peft  # noqa: F401 (that it is missing is noticed before the model is loaded)
    import torch
    from harness.answers import Encoder, answer_loss
    from harness.optimizers import build_optimizer, set_lr
    from harness.run import Run

    about: dict[str, Any] = {
        "training questions": len(questions.train),
        "validation questions": len(questions.val),
    }
    run = Run(s, ("val_loss", "val_accuracy", "old_loss"), ("questions", s.batch_size), about)
    rank, processes = run.accelerator.process_index, run.accelerator.num_processes
    if s.batch_size % processes:
        raise ValueError(f"batch_size {s.batch_size} cannot be divided into {processes} processes")
    model, tokenizer = load_language_model(s.size, s.precision)
    about["pretrained"] = checksum(model)
    encoder = Encoder(tokenizer, questions.answers, s.context)
    old = [encoder.start + part for part in old_sequences(encoder.tokens(old_text), s)][rank::processes]
    model = add_lora(model, s).to(run.device)
    model, optimizer = run.prepare(model, build_optimizer(model, s))
    at_once = max(1, s.batch_size // processes)

    def total(values: list[float]) -> list[float]:
        """The sums over all processes."""
        sums: list[float] = run.accelerator.reduce(torch.tensor(values, device=run.device), "sum").tolist()
        return sums

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        plain = run.plain(model)
        plain.eval()
        loss = right = old_loss = 0.0
        own = questions.val[rank::processes]
        choices = torch.tensor(encoder.choices, device=run.device)
        with run.accelerator.autocast():
            for start in range(0, len(own), at_once):
                batch = encoder.batch(own[start : start + at_once], run.device)
                logits = plain(input_ids=batch.inputs, attention_mask=batch.mask).logits
                loss += float(answer_loss(logits, batch.targets)) * len(batch.right)
                rows = torch.arange(len(batch.right), device=run.device)
                chosen = logits[rows, batch.deciding][:, choices].argmax(dim=1)
                right += float((chosen == batch.right).sum())
            for sequence in old:
                tokens = torch.tensor([sequence], device=run.device)
                old_loss += float(answer_loss(plain(input_ids=tokens).logits, tokens))
        plain.train()
        loss, right, count, old_loss, old_count = total([loss, right, len(own), old_loss, len(old)])
        return {"val_loss": loss / count, "val_accuracy": right / count, "old_loss": old_loss / old_count}

    run.evaluate_first(evaluate)
    model.train()
    for step in run.steps():
        lr = warmup_cosine_lr(step, s.lr, s.warmup, s.max_steps)
        set_lr(optimizer, lr)
        chosen = run.share(step_batch(len(questions.train), s.batch_size, s.seed, step, drop_last=True))
        batch = encoder.batch([questions.train[i] for i in chosen], run.device)
        loss = answer_loss(model(input_ids=batch.inputs, attention_mask=batch.mask).logits, batch.targets)
        run.accelerator.backward(loss)
        run.accelerator.clip_grad_norm_(model.parameters(), s.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(step, loss, lr, evaluate)
    run.finish()


def old_sequences(tokens: list[int], settings: LoRASettings) -> list[list[int]]:
    """Return parts of a text, evenly spread. Raises ValueError where it is shorter than one."""
    starts = len(tokens) - settings.context
    if starts < 0:
        raise ValueError(f"the old text has {len(tokens)} tokens, too few for a context of {settings.context}")
    count = min(settings.old_sequences, starts + 1)
    return [tokens[start : start + settings.context] for start in (starts * i // count for i in range(count))]


if __name__ == "__main__":
    sys.exit(run_script(LoRASettings, train, __doc__))
