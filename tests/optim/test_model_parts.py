"""Several model parts, an optimizer each, one flat state dict of names: torchtitan's way, with pipeline stages."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optim_helpers import assert_same_bits, bits, cpr_settings, documented
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR

SPLITS = {"one": [[0, 1, 2, 3]], "two": [[0, 1], [2, 3]], "another two": [[0], [1, 2, 3]], "four": [[0], [1], [2], [3]]}


@pytest.fixture(scope="module")
def example():
    """The documentation's container."""
    (code,) = documented("how-to/training-libraries.md", "## torchtitan, or any list of model parts")
    space = {}
    exec(code, space)
    return space["Optimizers"]


class Part(nn.Module):
    """Some of four layers, named as they are in the whole model."""

    def __init__(self, numbers):
        super().__init__()
        self.layers = nn.ModuleDict()
        for number in numbers:
            torch.manual_seed(number)
            self.layers[str(number)] = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh())

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


def weights(parts):
    return bits(p for part in parts for p in part.parameters())


def train(parts, optimizers, start, stop):
    for step in range(start, stop):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=g)
        y = x
        for part in parts:
            y = part(y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (y - 2 * x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def build(example, split, cls, settings):
    parts = [Part(numbers) for numbers in SPLITS[split]]
    return parts, example(parts, cls, lr=0.01, kappa_update=0.3, **settings)


def model_state(parts):
    return {key: value for part in parts for key, value in part.state_dict().items()}


@pytest.mark.parametrize("after", SPLITS)
@pytest.mark.parametrize("cls, rule", [(AdamCPR, "dependent"), (AdamCPR, "inflection_point"), (SGDCPR, "warm_start")])
def test_saved_of_two_parts_and_continued_in_any_number_equals_a_plain_loop(example, cls, rule, after, tmp_path):
    settings = {**cpr_settings(rule), **({"kappa_init_param": 0.9} if rule == "dependent" else {})}
    parts, container = build(example, "two", cls, settings)
    train(parts, [container], 0, 40)
    dcp.save({"model": model_state(parts), "optimizer": container.state_dict()}, checkpoint_id=tmp_path)

    others, fresh = build(example, after, cls, settings)
    with torch.no_grad():
        for part in others:
            for p in part.parameters():
                p.add_(1)
    state = {"model": model_state(others), "optimizer": fresh.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path)
    for part in others:
        part.load_state_dict({key: value for key, value in state["model"].items() if key in part.state_dict()})
    fresh.load_state_dict(state["optimizer"])
    train(others, [fresh], 40, 80)

    whole = Part(range(4))
    reference = cls(whole, lr=0.01, kappa_update=0.3, **settings)
    train([whole], [reference], 0, 80)
    assert_same_bits(weights(others), weights([whole]))
    ours = [tuple(c) for optimizer in fresh.optimizers for c in optimizer.constraints()]
    assert ours == [tuple(c) for c in reference.constraints()]
    if rule != "inflection_point":
        assert any(c.active for c in reference.constraints())


def test_each_parameter_has_its_own_entries(example):
    _, container = build(example, "two", AdamCPR, cpr_settings("warm_start"))
    state = container.state_dict()
    for number in range(4):
        assert state[f"param_groups.layers.{number}.0.weight.kappa_init_method"] == "warm_start"
        assert state[f"param_groups.layers.{number}.0.weight.regularize"] is True
        assert state[f"param_groups.layers.{number}.0.bias.regularize"] is False
        assert state[f"state.layers.{number}.0.weight.kappa"] == float("inf")
        assert f"state.layers.{number}.0.bias.kappa" not in state


def test_the_flat_state_of_a_plain_optimizer_is_torchs_error(example):
    plain = example([Part([0])], lambda part, **options: torch.optim.Adam(part.parameters(), **options), lr=0.01)
    _, container = build(example, "one", AdamCPR, cpr_settings("warm_start"))
    container.state_dict()
    with pytest.raises(KeyError):
        container.load_state_dict(plain.state_dict())


def test_names_stay_those_of_the_parameters_that_are_here():
    """Loading a state whose group has the same settings, but was of other parameters."""
    here, there = Part([0, 1]), Part([2, 3])
    optimizer, other = AdamCPR(here, lr=0.01), AdamCPR(there, lr=0.01)
    optimizer.load_state_dict(other.state_dict())
    assert [c.name for c in optimizer.constraints()] == ["layers.0.0.weight", "layers.1.0.weight"]


def test_lists_of_parameters_instead_of_parts():
    """torchtitan's own container passes these."""
    parts = [Part([0, 1]), Part([2, 3])]
    settings = {**cpr_settings("warm_start"), "kappa_init_param": 5, "kappa_update": 0.3}
    optimizers = [AdamCPR([p for p in part.parameters() if p.requires_grad], lr=0.01, **settings) for part in parts]
    train(parts, optimizers, 0, 20)
    whole = Part(range(4))
    train([whole], [AdamCPR(whole, lr=0.01, **settings)], 0, 20)
    assert any(c.active for optimizer in optimizers for c in optimizer.constraints())
    assert_same_bits(weights(parts), weights([whole]))


@pytest.mark.filterwarnings("ignore:AdamCPR has nothing to regularize")  # of each bias
def test_steps_in_the_backward_pass():
    """One optimizer a parameter, called as soon as its gradient is there."""
    settings = {**cpr_settings("warm_start"), "kappa_init_param": 5, "kappa_update": 0.3}
    model, plain = Part(range(4)), Part(range(4))
    optimizers = {p: AdamCPR([p], lr=0.01, **settings) for p in model.parameters()}

    def step_now(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step_now)
    train([model], [], 0, 20)
    reference = AdamCPR(plain, lr=0.01, **settings)
    train([plain], [reference], 0, 20)
    assert any(c.active for c in reference.constraints())
    assert_same_bits(weights([model]), weights([plain]))
