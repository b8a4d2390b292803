"""Lightning: the module's `configure_optimizers` returns the optimizer, and steps are taken with closures."""

import warnings

import pytest
import torch
from optim_helpers import assert_same_bits, bits, documented
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nnunet_cpr.optim import AdamCPR

lightning = pytest.importorskip("lightning", reason="needs lightning (pip install lightning)")
from lightning.pytorch.callbacks import BackboneFinetuning  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, loggers and folders
EPOCHS = 4
WARM = {"kappa_init_method": "warm_start", "kappa_init_param": 4, "kappa_update": 0.3}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 2))


def batches():
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, 3 * x[:, :2]), batch_size=8)


@pytest.fixture(scope="module")
def example():
    """The documentation's module."""
    code = "\n\n".join(documented("how-to/training-libraries.md", "## Lightning"))
    space = {}
    exec(code, space)
    return space["Module"]


@pytest.fixture(scope="module")
def faster(example):
    """The same, with a bound that acts within a few steps."""

    class Module(example):
        def __init__(self, model, **options):
            super().__init__(model)
            self.options = options

        def configure_optimizers(self):
            return AdamCPR(self, lr=0.01, **WARM, **self.options)

    return Module


def fit(module, folder, epochs=EPOCHS, resume=None, **options):
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, batches(), ckpt_path=resume)
    return trainer


def plain_loop(clip=None, accumulate=1, dtype=None, scaler=None):
    model = network()
    optimizer = AdamCPR(model, lr=0.01, **WARM)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(EPOCHS):
        for index, (x, y) in enumerate(batches()):
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = (model(x) - y).square().mean()
            scaler.scale(loss / accumulate).backward()
            if (index + 1) % accumulate:
                continue
            scaler.unscale_(optimizer)
            if clip:  # in the order of the optimizer's groups, as Lightning does
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert any(c.active for c in optimizer.constraints())
    return model


@pytest.mark.parametrize("clip, accumulate", [(None, 1), (0.5, 1), (0.5, 2)])
def test_equals_a_plain_loop(faster, clip, accumulate, tmp_path):
    module = faster(network())
    fit(module, tmp_path, gradient_clip_val=clip, accumulate_grad_batches=accumulate)
    assert_same_bits(bits(module.parameters()), bits(plain_loop(clip, accumulate).parameters()))


def test_resumed_from_a_checkpoint(faster, tmp_path):
    first = fit(faster(network()), tmp_path, EPOCHS // 2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    module = faster(network())
    fit(module, tmp_path, resume=tmp_path / "half.ckpt")
    assert_same_bits(bits(module.parameters()), bits(plain_loop().parameters()))


def test_bfloat16(faster, tmp_path):
    module = faster(network())
    fit(module, tmp_path, precision="bf16-mixed")
    assert_same_bits(bits(module.parameters()), bits(plain_loop(dtype=torch.bfloat16).parameters()))


def overflowing():
    """A scaler whose first steps are skipped."""
    return torch.amp.GradScaler("cpu", init_scale=2.0**24)


def test_float16_with_skipped_steps(faster, tmp_path):
    """On CPU Lightning takes bfloat16 for 16-mixed; its plugin, which is what runs on a GPU, takes float16."""
    module = faster(network())
    trainer = fit(module, tmp_path, gradient_clip_val=0.5, plugins=MixedPrecision("16-mixed", "cpu", overflowing()))
    assert trainer.optimizers[0].state[module.model[0].weight]["cpr_step"] < trainer.global_step
    plain = plain_loop(0.5, dtype=torch.float16, scaler=overflowing())
    assert_same_bits(bits(module.parameters()), bits(plain.parameters()))


def test_clipping_float16_gradients_of_a_fused_optimizer_is_refused_as_for_torchs_own(faster, tmp_path):
    class Torchs(faster):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01, fused=True)

    for module in (Torchs(network()), faster(network(), fused=True)):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            fit(module, tmp_path, gradient_clip_val=0.5, plugins=plugin)


def test_the_example_of_the_documentation(example, tmp_path):
    module = example(network())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, tmp_path, epochs=1)
    rows = module.optimizers(use_pl_optimizer=False).constraints()
    assert [c.name for c in rows] == ["model.0.weight", "model.3.weight"]


class Finetuned(lightning.LightningModule):
    """A backbone that Lightning freezes, and adds to the optimizer of the head in the second epoch."""

    def __init__(self, of_the_head):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Sequential(nn.Linear(6, 9), nn.Tanh()), nn.Linear(9, 2)
        self.of_the_head = of_the_head

    def training_step(self, batch, index):
        x, y = batch
        return (self.head(self.backbone(x)) - y).square().mean()

    def configure_optimizers(self):
        return AdamCPR(self.of_the_head(self.head), lr=0.01, **WARM)


def thawing():
    return BackboneFinetuning(unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.0)


def test_finetuning_adds_the_backbone_to_the_optimizer_of_the_head(tmp_path):
    """The head's optimizer has names, the group that Lightning adds has none."""
    modules = [Finetuned(lambda head: head), Finetuned(nn.Module.parameters)]
    for module in modules:
        fit(module, tmp_path, callbacks=[thawing()])
    assert_same_bits(*[bits(module.parameters()) for module in modules])
    rows = modules[0].optimizers(use_pl_optimizer=False).constraints()
    assert [row.name for row in rows] == ["weight", "param 2"]
    assert any(row.active for row in rows)


def test_finetuning_goes_on_from_a_checkpoint(tmp_path):
    """Lightning puts the groups of the first run in place before it loads the optimizer's state."""
    first = Finetuned(lambda head: head)
    fit(first, tmp_path, epochs=2, callbacks=[thawing()]).save_checkpoint(tmp_path / "half.ckpt")
    before = first.optimizers(use_pl_optimizer=False).constraints()
    module = Finetuned(lambda head: head)
    fit(module, tmp_path, epochs=3, resume=tmp_path / "half.ckpt", callbacks=[thawing()])
    module.backbone.requires_grad_(True)  # Lightning has left it frozen
    after = module.optimizers(use_pl_optimizer=False).constraints()
    assert [row.name for row in after] == ["weight", "param 2"]
    assert [row.kappa for row in after] == [row.kappa for row in before]
    assert all(row.bounded for row in after)
