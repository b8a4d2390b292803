"""The rivals, against their published updates in NumPy."""

import numpy as np
import pytest
import torch
from harness.optimizers import CLASSES, build_optimizer, set_lr
from harness.parsing import make
from harness.rivals import RIVALS
from harness.settings import OPTIMIZERS
from torch import nn
from train_gpt2 import GPT2Settings

LR, STRENGTH, STEPS, SCALE = 0.1, 0.3, 4, 0.7
SHAPES = ((3, 4), (5,))


def adam(theta, gradients):
    """Adam's update of one tensor at each step, as Kingma and Ba write it."""
    m = v = np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        yield g, LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def adadecay(thetas, gradients):
    found = []
    for theta, of_tensor in zip(thetas, gradients, strict=True):
        for g, update in adam(theta, of_tensor):
            z = (abs(g) - abs(g).mean()) / abs(g).std()
            theta = theta - LR * STRENGTH * 2 / (1 + np.exp(-4 * z)) * theta - update
        found.append(theta)
    return found


def awd(thetas, gradients):
    decay = 0.0
    for both in zip(*(adam(theta, of) for theta, of in zip(thetas, gradients, strict=True)), strict=True):
        g = np.concatenate([one.ravel() for one, _ in both])
        w = np.concatenate([theta.ravel() for theta in thetas])
        decay = 0.1 * decay + 0.9 * STRENGTH * np.linalg.norm(g) / np.linalg.norm(w)
        thetas = [theta * (1 - LR * decay) - update for theta, (_, update) in zip(thetas, both, strict=True)]
    return thetas


def cautious(thetas, gradients):
    found = []
    for theta, of_tensor in zip(thetas, gradients, strict=True):
        for _, update in adam(theta, of_tensor):
            theta = theta - update - LR * STRENGTH * (update * theta >= 0) * theta
        found.append(theta)
    return found


def initialnorm(thetas, gradients):
    def norm(arrays):
        return np.sqrt(sum(np.sum(array**2) for array in arrays))

    thetas = [SCALE * theta for theta in thetas]
    first = norm(thetas)
    for both in zip(*(adam(theta, of) for theta, of in zip(thetas, gradients, strict=True)), strict=True):
        thetas = [theta - update for theta, (_, update) in zip(thetas, both, strict=True)]
        scale = first / norm(thetas)
        thetas = [theta * scale for theta in thetas]
    return thetas


def scheduled(thetas, gradients):
    found = []
    for theta, of_tensor in zip(thetas, gradients, strict=True):
        for step, (_, update) in enumerate(adam(theta, of_tensor)):
            decay = STRENGTH * (0.1 + 0.9 * (1 + np.cos(np.pi * step / STEPS)) / 2)
            theta = theta * (1 - LR * decay) - update
        found.append(theta)
    return found


OPTIONS = {"initialnorm": {"initial_scale": SCALE}, "scheduled": {"total_steps": STEPS}}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("reference", [adadecay, awd, cautious, initialnorm, scheduled], ids=lambda one: one.__name__)
def test_the_published_update(reference, fused):
    rng = np.random.default_rng(0)
    thetas, plain = [rng.normal(size=shape) for shape in SHAPES], rng.normal(size=3)
    gradients = [rng.normal(size=(STEPS, *shape)) for shape in SHAPES]
    of_plain = rng.normal(size=(STEPS, 3))
    tensors = [torch.tensor(theta, requires_grad=True) for theta in (*thetas, plain)]
    groups = [{"params": tensors[:2], "weight_decay": STRENGTH}, {"params": tensors[2:], "weight_decay": 0.0}]

    def make():
        options = OPTIONS.get(reference.__name__, {})
        return RIVALS[reference.__name__]([dict(group) for group in groups], lr=LR, fused=fused, **options)

    optimizer = make()
    for step in range(STEPS):
        if step == 2:  # resumed
            state, weights = optimizer.state_dict(), [tensor.detach().clone() for tensor in tensors]
            optimizer = make()
            optimizer.load_state_dict(state)
            with torch.no_grad():  # as a resumed training does: a new optimizer may change the weights
                for tensor, weight in zip(tensors, weights, strict=True):
                    tensor.copy_(weight)
        for tensor, of_tensor in zip(tensors, (*gradients, of_plain), strict=True):
            tensor.grad = torch.tensor(of_tensor[step])
        optimizer.step()
    for tensor, expected in zip(tensors, reference(thetas, gradients), strict=False):
        assert tensor.detach().numpy() == pytest.approx(expected, rel=1e-9)
    undecayed = plain - sum(update for _, update in adam(plain, of_plain))
    assert tensors[2].detach().numpy() == pytest.approx(undecayed, rel=1e-9)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", RIVALS)
def test_with_a_grad_scaler_steps_are_those_without_one_and_overflows_are_skipped(name, fused):
    options = {"scheduled": {"total_steps": 5}}.get(name, {})

    def trained(scaler):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer = RIVALS[name]([{"params": [weight], "weight_decay": STRENGTH}], lr=LR, fused=fused, **options)
        for step in range(4):
            loss = (weight * (torch.inf if step == 2 and scaler else step + 1.0)).square().sum()
            if scaler:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            elif step != 2:
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
        return weight.detach()

    torch.testing.assert_close(trained(torch.amp.GradScaler("cpu")), trained(None), rtol=1e-5, atol=1e-6)


def test_corrected_weight_decay_falls_with_the_square_of_the_learning_rate():
    """Against the update in NumPy, while the learning rate falls."""
    rng = np.random.default_rng(0)
    theta, gradients = rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4))
    tensor = torch.tensor(theta, requires_grad=True)
    optimizer = CLASSES["adamc"]([{"params": [tensor], "weight_decay": STRENGTH}], lr=LR)
    for step, (_, update) in enumerate(adam(theta, gradients)):
        share = 1 - step / STEPS
        set_lr(optimizer, LR * share)
        tensor.grad = torch.tensor(gradients[step])
        optimizer.step()
        theta = theta * (1 - LR * share**2 * STRENGTH) - share * update
    assert tensor.detach().numpy() == pytest.approx(theta, rel=1e-9)


@pytest.mark.parametrize("name", ["adamc", "amos", *RIVALS])
def test_built_from_settings_and_trained(name):
    if name == "amos":
        pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    inputs = torch.randn(64, 4)
    wanted = inputs.sum(dim=1, keepdim=True)
    optimizer = build_optimizer(model, make(GPT2Settings, {"optimizer": name, "lr": 0.02}))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(nn.functional.mse_loss(model(inputs), wanted))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_every_rival_is_an_optimizer_of_the_scripts():
    assert set(OPTIMIZERS) == set(CLASSES) > set(RIVALS)
