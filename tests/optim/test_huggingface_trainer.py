"""Hugging Face's Trainer, without a subclass of it."""

import pytest
import torch
from optim_helpers import assert_same_bits, bits, documented
from torch import nn

from nnunet_cpr.optim import AdamCPR

transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'nnunet-cpr[gpt2]')")
pytest.importorskip("accelerate", reason="needs accelerate (pip install 'nnunet-cpr[gpt2]')")

STEPS, ACCUMULATE, BATCH = 20, 2, 8
WARM = {"kappa_init_method": "warm_start", "kappa_init_param": 4}


class Model(nn.Module):
    """What Trainer takes for a model: the loss is among the outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 6)
        self.layers = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 2))

    def forward(self, x, labels):
        return {"loss": (self.layers(self.embedding(x).sum(1)) - labels).square().mean()}


class Data(torch.utils.data.Dataset):
    """Rows of the same numbers in each, so that the order in which Trainer draws them does not count."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return {"x": torch.tensor([0, 1, 2, 3, 4]), "labels": torch.tensor([3.0, -2.0])}


def arguments(folder, **options):
    return transformers.TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATE,
        save_steps=STEPS // 2, logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, **options,
    )  # fmt: skip


def plain_loop(optimizer_of, bf16=False):
    """What Trainer does by default: accumulate, clip the norm to 1, a learning rate falling linearly to 0."""
    model = Model()
    optimizer = optimizer_of(model)
    row = Data()[0]
    x, y = row["x"].expand(BATCH, -1), row["labels"].expand(BATCH, -1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * max(0.0, (STEPS - step) / STEPS)
        for _ in range(ACCUMULATE):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(x, y)["loss"]
            (loss / ACCUMULATE).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["float32", "bf16"])
def test_equals_a_plain_loop_and_resumes_bit_for_bit(options, tmp_path):
    def build(model):
        return AdamCPR(model, lr=0.01, kappa_update=0.3, **WARM)

    def run(resume=None):
        model = Model()
        trainer = transformers.Trainer(
            model, arguments(tmp_path, **options), train_dataset=Data(), optimizers=(build(model), None)
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    model = run()
    plain, optimizer = plain_loop(build, **options)
    assert any(c.active for c in optimizer.constraints())
    assert optimizer.state[plain.layers[0].weight]["cpr_step"] == STEPS  # steps, not backward passes
    assert_same_bits(bits(model.parameters()), bits(plain.parameters()))
    assert_same_bits(bits(run(str(tmp_path / f"checkpoint-{STEPS // 2}")).parameters()), bits(model.parameters()))


def test_trainer_makes_the_optimizer(tmp_path):
    trainer = transformers.Trainer(
        model_init=Model, args=arguments(tmp_path), train_dataset=Data(),
        optimizer_cls_and_kwargs=(AdamCPR, {"lr": 0.01, "kappa_update": 0.3, **WARM}),
    )  # fmt: skip
    trainer.train()

    def build(model):
        """All matrices, the embedding included, in the order in which Trainer puts its groups."""
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        return AdamCPR([{"params": matrices}, {"params": vectors}], lr=0.01, kappa_update=0.3, **WARM)

    plain, optimizer = plain_loop(build)
    assert len(optimizer.constraints()) == 3
    assert_same_bits(bits(trainer.model.parameters()), bits(plain.parameters()))


def test_weight_decay_is_refused_then(tmp_path):
    trainer = transformers.Trainer(
        Model(), arguments(tmp_path, weight_decay=0.01), train_dataset=Data(),
        optimizer_cls_and_kwargs=(AdamCPR, {"lr": 0.01}),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"weight_decay is 0\.01 in a regularized group"):
        trainer.train()


def test_the_examples_of_the_documentation(tmp_path):
    first, second = documented("how-to/training-libraries.md", "## Hugging Face's Trainer")
    space = {"model": Model(), "args": arguments(tmp_path), "dataset": Data(), "model_init": Model}
    exec(first, space)
    names = [c.name for c in space["optimizer"].constraints()]
    assert names == ["layers.0.weight", "layers.3.weight"]
    assert space["optimizer"].state[space["model"].layers[0].weight]["cpr_step"] == STEPS
    exec(second, space)
    assert len(space["trainer"].optimizer.optimizer.constraints()) == 3
