import pytest

from nnunet_cpr.demo.settings import CPR, STEPS, WEIGHT_DECAY, Settings
from nnunet_cpr.training.settings import parse


def settings(steps=300, seed=0, fold=0, device="cpu", bf16=False) -> Settings:
    return Settings(steps, seed, fold, device, bf16)


@pytest.mark.parametrize("steps", [10, 20, 70, 300, 500, 1990, 2000, 10_010])
@pytest.mark.parametrize("bf16", [False, True])
def test_both_trainers_take_the_same_steps_seed_and_precision(steps, bf16):
    names = settings(steps, seed=3, bf16=bf16).trainers
    baseline, cpr = parse(names[WEIGHT_DECAY]), parse(names[CPR])
    assert baseline.total_steps == cpr.total_steps == steps
    assert baseline.seed == cpr.seed == 3
    assert baseline.bf16 == cpr.bf16 == bf16
    assert (baseline.weight_decay, baseline.cpr) == (3e-5, None)
    assert (cpr.weight_decay, cpr.cpr.kappa_init_method) == (0, "warm_start")
    assert cpr.cpr.kappa_init_param == steps / 2


@pytest.mark.parametrize(("steps", "epochs"), [(10, 10), (300, 20), (2000, 20), (70, 14), (1990, 10), (10**12, 20)])
def test_epochs_are_the_divisor_nearest_to_twenty(steps, epochs):
    assert settings(steps).epochs == epochs


def test_names_differ_when_steps_seed_or_precision_do():
    variants = [settings(), settings(steps=310), settings(seed=1), settings(bf16=True)]
    assert len({name for variant in variants for name in variant.trainers.values()}) == 8


@pytest.mark.parametrize("steps", [0, -10, 5, 301])
def test_steps_that_do_not_divide_are_refused(steps):
    with pytest.raises(ValueError, match=f"--steps {steps}: must be a multiple of 10"):
        settings(steps)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_trainer_takes_is_refused(seed):
    with pytest.raises(ValueError, match=f"--seed {seed}: must be from 0 to 4294967295"):
        settings(seed=seed)
    parse(settings(seed=2**32 - 1).trainers[CPR])


def test_the_default_is_valid():
    assert settings(STEPS).steps == STEPS
