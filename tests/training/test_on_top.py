"""CPR on top of other trainers: every one that nnU-Net ships, and external ones that decide much by themselves."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dynamic_network_architectures.architectures import primus
from dynamic_network_architectures.building_blocks.eva import Eva
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainerCosAnneal import nnUNetTrainerCosAnneal
from training_helpers import make_trainer, resumed, same, weights

from nnunet_cpr.nnunet.trainer_sources import nnunet_folder, trainer_sources
from nnunet_cpr.optim import SGDCPR, AdamCPR
from nnunet_cpr.training import with_cpr
from nnunet_cpr.training.factory import trainer_class

EXTERNAL = '''
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerElsewhere(nnUNetTrainer):
    """Like U-Mamba's and MedNeXt's: a length, a rate and an optimizer of its own, in an older signature."""

    def __init__(self, plans, configuration, fold, dataset_json, unpack_dataset=True, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 3
        self.num_iterations_per_epoch = 4

    def configure_optimizers(self):
        bias = [p for p in self.network.parameters() if p.ndim < 2]
        kernels = [p for p in self.network.parameters() if p.ndim >= 2]
        groups = [{"params": kernels[:2], "lr": 1e-4}, {"params": kernels[2:]}, {"params": bias, "weight_decay": 0}]
        optimizer = torch.optim.AdamW(groups, lr=4e-4, weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.rates = getattr(self, "rates", []) + [[group["lr"] for group in self.optimizer.param_groups]]


class nnUNetTrainerExempts(nnUNetTrainer):
    def configure_optimizers(self):
        first, *others = self.network.parameters()
        groups = [{"params": [first], "weight_decay": 0}, {"params": others}]
        optimizer = torch.optim.SGD(groups, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


class nnUNetTrainerTwoOptimizers(nnUNetTrainer):
    def configure_optimizers(self):
        self.second = torch.optim.SGD(self.network.parameters(), 0.1)
        return super().configure_optimizers()


class nnUNetTrainerByHand(nnUNetTrainer):
    def train_step(self, batch):
        for p in self.network.parameters():
            p.data -= 1e-3
        return {"loss": torch.zeros(()).numpy()}


class nnUNetTrainerOddReturn(nnUNetTrainer):
    def configure_optimizers(self):
        return [super().configure_optimizers()[0]]


class NotATrainer:
    pass
'''


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)


@pytest.fixture
def external(nnunet, tmp_path, monkeypatch):
    folder = tmp_path / "my trainers"
    folder.mkdir()
    (folder / "elsewhere.py").write_text(EXTERNAL)
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    trainer_class.cache_clear()
    yield folder
    trainer_class.cache_clear()


def trained(nnunet, name, **changes):
    trainer = make_trainer(nnunet, name, **changes)
    trainer.run_training()
    return trainer


# every trainer that nnU-Net ships


def shipped() -> list[str]:
    folder = nnunet_folder()
    names = [name for name, file in trainer_sources().items() if folder and file.is_relative_to(folder)]
    return sorted(set(names) - {"AbstractPrimus"})


class Stop(Exception):
    """Ends a training after its first epoch."""


class Adan(torch.optim.SGD):
    """Stands for the optimizer of a package that nnU-Net does not bring; ours takes its place anyway."""

    def __init__(self, params, lr, betas=(), **_):
        super().__init__(params, lr)


@pytest.mark.parametrize("base", shipped())
def test_every_trainer_of_nnunets(nnunet, monkeypatch, base):
    """Two epochs of an iteration, interrupted and resumed between them, then a prediction by the trainer's name."""
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdan.Adan", Adan)
    # One layer instead of 12 to 24: some of the transformers have 300 million weights.
    monkeypatch.setattr(primus, "Eva", lambda *args, depth, **kwargs: Eva(*args, depth=1, **kwargs))
    if "Benchmark" in base:
        pytest.skip("nnU-Net lets it run on a GPU only, and it saves no checkpoint")
    name = f"nnUNetTrainerCPR_on_{base}_ws1_2epochs_1iters_seed1"
    interrupted = make_trainer(nnunet, name)
    interrupted.save_every = 1
    step = interrupted.train_step

    def stop_in_second_epoch(batch):
        if interrupted.current_epoch:
            raise Stop
        return step(batch)

    interrupted.train_step = stop_in_second_epoch
    with pytest.raises(Stop):
        interrupted.run_training()
    trainer = resumed(nnunet, name)
    assert trainer.current_epoch == 1
    assert type(trainer.optimizer) is SGDCPR
    trainer.run_training()
    constraints = trainer.optimizer.constraints()
    assert constraints and all(math.isfinite(c.kappa) for c in constraints if "seg_layers" not in c.name)

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_gaussian=False, use_mirroring=False, allow_tqdm=False)
    model = Path(trainer.output_folder).parent
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    image = torch.rand(1, *trainer.configuration_manager.patch_size, generator=torch.Generator().manual_seed(0))
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    with torch.no_grad():
        expected = trainer.network(image[None])[0]
    found = predictor.predict_logits_from_preprocessed_data(image).float()  # nnU-Net keeps logits in float16
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-2)
    shutil.rmtree(model)


@pytest.mark.parametrize("family", ["nnUNetTrainerAdamCPR", "nnUNetTrainerSGD", "nnUNetTrainerAdamW"])
@pytest.mark.parametrize("base", ["nnUNetTrainerDA5", "nnUNetTrainerCosAnneal", "nnUNet_Primus_S_Trainer"])
def test_every_family(nnunet, family, base):
    trained(nnunet, f"{family}_on_{base}_2epochs_1iters" + "_ws1" * (family == "nnUNetTrainerAdamCPR"))


# what the base decides stays


def test_on_nnunets_default_trainer_it_is_the_family_itself(nnunet):
    parts = "ws2_2epochs_3iters_seed2"
    plain, on_top = (trained(nnunet, f"nnUNetTrainerCPR{on}_{parts}") for on in ("", "_on_nnUNetTrainer"))
    assert same(weights(plain), weights(on_top))


def random_batch(trainer, seed):
    generator = torch.Generator().manual_seed(seed)
    data = torch.rand(2, 1, 24, 32, 24, generator=generator)
    target = torch.randint(0, 3, (2, 1, 24, 32, 24), generator=generator).float()
    deep = [target[(..., *(slice(None, None, round(1 / s)) for s in scale))] for scale in
            trainer._get_deep_supervision_scales() or []]  # fmt: skip
    return {"data": data, "target": deep or target}


@pytest.mark.parametrize(
    ("family", "base"),
    [
        ("nnUNetTrainerSGD", "nnUNetTrainer"),
        ("nnUNetTrainerSGD", "nnUNetTrainerCosAnneal"),
        ("nnUNetTrainerSGD", "nnUNetTrainerDiceCELoss_noSmooth"),
        ("nnUNetTrainerSGD", "nnUNetTrainerNoDeepSupervision"),
        ("nnUNetTrainerSGD", "nnUNetTrainer_warmup"),
        ("nnUNetTrainerAdamW", "nnUNetTrainerAdam3en4"),
        ("nnUNetTrainerAdamW", "nnUNet_Primus_S_Trainer"),
    ],
)
def test_a_family_of_the_bases_own_optimizer_changes_nothing(nnunet, family, base):
    """Two steps in each of four epochs far apart are the base's own: loss, schedule, rate, weight decay, clipping.

    With SGD bit for bit. AdamW is fused here but not in all of nnU-Net's trainers, so its kernels are compared closely.
    (The gradient of a bias before a normalization is nothing but rounding, which Adam blows up.)
    """
    ours = trainer_class(f"{family}_on_{base}")
    theirs = next(cls for cls in ours.__mro__ if cls.__name__ == base)
    results = []
    for cls in (ours, theirs):
        plans = json.loads(json.dumps(nnunet.plans)) | {"continue_training": False}
        trainer = cls(plans, "tiny", 0, nnunet.dataset_json, device=torch.device("cpu"))
        torch.manual_seed(0)
        trainer.initialize()
        rates = []
        for epoch in (0, 1, 50, 700):
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            for i in range(2):
                trainer.train_step(random_batch(trainer, i))
        results.append((rates, trainer.num_epochs, weights(trainer)))
    assert results[0][:2] == results[1][:2]
    for name, weight in results[1][2].items():
        if family == "nnUNetTrainerSGD":
            assert torch.equal(results[0][2][name], weight)
        elif weight.ndim >= 2:
            torch.testing.assert_close(results[0][2][name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "optimizer", "rates", "settings"),
    [
        ("nnUNetTrainerAdamCPR_on_nnUNetTrainerElsewhere", AdamCPR, [1e-4, 4e-4, 4e-4],
         dict(betas=(0.8, 0.95), eps=1e-6, weight_decay=[0, 0, 0], regularize=[True, True, False])),
        ("nnUNetTrainerCPR_on_nnUNetTrainerElsewhere_lr2e-4", SGDCPR, [2e-4, 8e-4, 8e-4],
         dict(momentum=0.99, nesterov=True, weight_decay=[0, 0, 0], regularize=[True, True, False])),
        ("nnUNetTrainerAdamW_on_nnUNetTrainerElsewhere", torch.optim.AdamW, [1e-4, 4e-4, 4e-4],
         dict(betas=(0.8, 0.95), eps=1e-6, weight_decay=[0.05, 0.05, 0])),
        ("nnUNetTrainerAdamW_on_nnUNetTrainerElsewhere_wd1e-3", torch.optim.AdamW, [1e-4, 4e-4, 4e-4],
         dict(weight_decay=[1e-3, 1e-3, 0])),
        ("nnUNetTrainerSGD_on_nnUNetTrainerElsewhere", torch.optim.SGD, [1e-4, 4e-4, 4e-4],
         dict(momentum=0.99, weight_decay=[3e-5, 3e-5, 0])),
    ],
)  # fmt: skip
def test_an_external_trainer_keeps_its_groups_rates_and_length(nnunet, external, name, optimizer, rates, settings):
    trainer = trained(nnunet, name + "_ws3" * ("CPR" in name))
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (3, 4)
    assert type(trainer.optimizer) is optimizer
    for key, value in settings.items():
        found = [group[key] for group in trainer.optimizer.param_groups]
        assert found == (value if isinstance(value, list) else [value] * 3)
    assert trainer.rates == [pytest.approx([rate * 0.5**epoch for rate in rates]) for epoch in range(3)]


def test_what_the_base_exempts_from_its_weight_decay_cpr_leaves_alone(nnunet, external):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_on_nnUNetTrainerExempts")
    trainer.initialize()
    first = next(name for name, _ in trainer.network.named_parameters())
    kernels = {name for name, p in trainer.network.named_parameters() if p.ndim == 5}
    assert first in kernels
    assert {c.name for c in trainer.optimizer.constraints()} == kernels - {first}
    assert trainer.weight_decay == 0


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("nnUNetTrainerCPR_on_nnUNetTrainerDA5", 1e-2),  # nnU-Net's
        ("nnUNetTrainerAdamCPR_on_nnUNetTrainerDA5", 1e-3),  # nobody has decided, so the family's
        ("nnUNetTrainerAdamCPR_on_nnUNetTrainerAdam3en4", 3e-4),
        ("nnUNetTrainerCPR_on_nnUNet_Primus_S_Trainer", 3e-4),
        ("nnUNetTrainerCPR_on_nnUNet_Primus_S_Trainer_lr5e-3", 5e-3),
    ],
)
def test_learning_rate(nnunet, name, rate):
    trainer = make_trainer(nnunet, name)
    trainer.initialize()
    assert trainer.initial_lr == pytest.approx(rate)
    if "Primus" in name:  # warms up for 50 epochs, then decays over the other 950
        trainer.current_epoch = 49
        trainer.on_train_epoch_start()
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        trainer.current_epoch = 50
        trainer.on_train_epoch_start()
        trainer.current_epoch = 525
        trainer.on_train_epoch_start()
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate * 0.5**0.9)


def test_the_names_warmup_replaces_the_bases_schedule(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_on_nnUNetTrainerCosAnneal_warmup4_2epochs_4iters_ws1")
    trainer.initialize()
    trainer.on_train_epoch_start()
    rates = []
    for i in range(4):
        trainer.train_step(random_batch(trainer, i))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


def test_in_bfloat16_the_network_is_the_bases(nnunet):
    trainer = make_trainer(nnunet, "nnUNetTrainerCPR_on_nnUNetTrainerBN_bf16")
    trainer.initialize()
    assert any(isinstance(module, torch.nn.BatchNorm3d) for module in trainer.network.modules())
    assert "Bfloat16Forward" in [cls.__name__ for cls in type(trainer.network).__mro__]


# what cannot be combined


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("nnUNetTrainerTwoOptimizers", "nnUNetTrainerTwoOptimizers has a second optimizer, second"),
        ("nnUNetTrainerByHand", "nnUNetTrainerByHand never calls self.optimizer.step"),
        ("nnUNetTrainerOddReturn", "nnUNetTrainerOddReturn does not make one optimizer and one schedule"),
        ("NotATrainer", "must inherit from 'nnUNetTrainer'"),
        ("nnUNetTrainerNowhere", "there is no trainer nnUNetTrainerNowhere"),
        ("nnUNetTrainerAdamCPR_ip", "nnUNetTrainerAdamCPR is one of nnunet-cpr's own"),
        ("nnUNetTrainerElsewhere_ws12", "the warm start takes 12 steps, but the training has only 12"),
        ("nnUNetTrainerElsewhere_warmup3_ws3", "nnUNetTrainerElsewhere has groups of parameters with learning rates"),
    ],
)
def test_refused_with_the_reason(nnunet, external, base, reason):
    with pytest.raises(ValueError, match=reason) as error:
        trained(nnunet, f"nnUNetTrainerCPR_on_{base}")
    assert "\n" not in str(error.value)


def test_a_base_that_cannot_be_imported_is_told(nnunet, external):
    (external / "broken.py").write_text("import no_such_package\nclass nnUNetTrainerBroken: pass\n")
    with pytest.raises(ValueError, match=r"nnUNetTrainerBroken cannot be imported from .*broken.py: No module named"):
        trainer_class("nnUNetTrainerCPR_on_nnUNetTrainerBroken")


# in code


def test_with_cpr_is_the_class_of_its_name():
    made = with_cpr(nnUNetTrainerDA5, "ws20_proximal", family="nnUNetTrainerAdamCPR")
    named = trainer_class("nnUNetTrainerAdamCPR_on_nnUNetTrainerDA5_ws20_proximal")
    assert (made.__name__, made.settings, made.__mro__[1:]) == (named.__name__, named.settings, named.__mro__[1:])


def test_with_cpr_takes_a_class_that_is_in_no_folder(nnunet):
    class Mine(nnUNetTrainerCosAnneal):
        pass

    cls = with_cpr(Mine, "ws1_1epochs_2iters")
    assert cls.__name__ == "nnUNetTrainerCPR_on_Mine_ws1_1epochs_2iters"
    plans = json.loads(json.dumps(nnunet.plans)) | {"continue_training": False}
    trainer = cls(plans, "tiny", 0, nnunet.dataset_json, device=torch.device("cpu"))
    trainer.run_training()
    assert type(trainer.optimizer) is SGDCPR


def test_with_cpr_refuses_ours():
    with pytest.raises(ValueError, match="is one of nnunet-cpr's own"):
        with_cpr(trainer_class("nnUNetTrainerCPR"))
    with pytest.raises(ValueError, match="is not a trainer"):
        with_cpr(SimpleNamespace)
