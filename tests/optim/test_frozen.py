"""Frozen parameters (`requires_grad=False`): listed in the table, not among the constraints, bounded once unfrozen."""

import warnings

import pytest
import torch
from optim_helpers import assert_same_bits, bits, round_trip
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR, cpr, param_groups, param_table

CLASSES = [AdamCPR, SGDCPR, cpr(torch.optim.NAdam)]
WARM_START = {"lr": 0.02, "kappa_init_method": "warm_start", "kappa_init_param": 3, "kappa_update": 0.3}


def network(frozen=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    model[0].requires_grad_(not frozen)
    return model


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - 9 * x[:, :2]).square().mean().backward()
        optimizer.step()


def names(optimizer):
    return [row.name for row in optimizer.constraints()]


def rows(table):
    return {line.split()[0]: line for line in table.splitlines()}


def test_the_table_marks_them_and_counts_them_apart():
    table = param_table(network())
    assert rows(table)["0.weight"].endswith("weight of Linear, frozen")
    assert rows(table)["0.bias"].endswith("bias of Linear, frozen")
    assert not any("frozen" in rows(table)[name] for name in ("2.weight", "2.bias"))
    assert "2 of 4 tensors, 36 of 44 elements are regularized" in table
    assert "1 of these tensors, 24 elements, are frozen" in table


def test_the_table_of_a_model_without_them_does_not_speak_of_them():
    assert "frozen" not in param_table(network(frozen=False))


def test_they_are_in_the_groups_like_others():
    frozen, free = (param_groups(network(frozen)) for frozen in (True, False))
    assert [[name for name, _ in g["params"]] for g in frozen] == [[name for name, _ in g["params"]] for g in free]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR])
def test_they_move_in_no_step_and_the_others_as_if_they_were_alone(cls, fused):
    model, other = network(), network()
    before = bits(model[0].parameters())
    optimizer, alone = cls(model, **WARM_START, fused=fused), cls(other[2], **WARM_START, fused=fused)
    train(model, optimizer, 0, 60)
    train(other, alone, 0, 60)
    assert_same_bits(bits(model[0].parameters()), before)
    assert_same_bits(bits(model[2].parameters()), bits(other[2].parameters()))
    assert not any(optimizer.state.get(p) for p in model[0].parameters())
    (row,), (expected,) = optimizer.constraints(), alone.constraints()
    assert row.name == "2.weight" and row[1:] == expected[1:] and row.active


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("cls", CLASSES)
def test_unfreezing_starts_a_warm_start_of_its_own(cls, named):
    model = network()
    optimizer = cls(model if named else model.parameters(), **WARM_START)
    train(model, optimizer, 0, 5)
    last = "2.weight" if named else "param 2"
    assert names(optimizer) == [last]
    kappa = optimizer.constraints()[0].kappa
    model.requires_grad_(True)
    train(model, optimizer, 5, 8)
    assert names(optimizer) == ["0.weight" if named else "param 0", last]
    assert [row.bounded for row in optimizer.constraints()] == [False, True]
    reg = float(model[0].weight.detach().square().sum())
    train(model, optimizer, 8, 9)
    first, second = optimizer.constraints()
    assert first.kappa == pytest.approx(reg, rel=1e-6)
    assert second.kappa == kappa


@pytest.mark.parametrize("dampening", [0.0, 0.3])
@pytest.mark.parametrize("fused", [None, True])
def test_unfreezing_with_momentum_is_what_it_is_without_fused(fused, dampening):
    """torch's fused SGD takes tensors that have momentum, or tensors that have none yet, but not both at once."""
    ends = []
    for how in (fused, False):
        model = network()
        optimizer = SGDCPR(model, **WARM_START, momentum=0.9, dampening=dampening, fused=how)
        train(model, optimizer, 0, 5)
        model.requires_grad_(True)
        train(model, optimizer, 5, 15)
        assert len(optimizer.param_groups) == 2
        ends.append([*model.parameters(), *(optimizer.state[p]["momentum_buffer"] for p in model.parameters())])
    torch.testing.assert_close(ends[0], ends[1])


def test_frozen_again_a_tensor_keeps_its_bound_for_later():
    model = network(frozen=False)
    optimizer = AdamCPR(model, **WARM_START)
    train(model, optimizer, 0, 6)
    kappa = optimizer.constraints()[0].kappa
    model[0].requires_grad_(False)
    train(model, optimizer, 6, 9)
    assert names(optimizer) == ["2.weight"]
    model[0].requires_grad_(True)
    train(model, optimizer, 9, 10)
    assert optimizer.constraints()[0].kappa == kappa
    assert [int(optimizer.state[model[i].weight]["cpr_step"]) for i in (0, 2)] == [7, 10]


def test_saved_frozen_and_unfrozen_after_loading():
    ends = []
    for saved in (True, False):
        model = network()
        optimizer = AdamCPR(model, **WARM_START)
        train(model, optimizer, 0, 5)
        if saved:
            state = round_trip([model.state_dict(), optimizer.state_dict()])
            model = network()
            optimizer = AdamCPR(model, **WARM_START)
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        model.requires_grad_(True)
        train(model, optimizer, 5, 15)
        ends.append([bits(model.parameters()), optimizer.constraints()])
    assert_same_bits(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] and all(row.active for row in ends[0][1])


@pytest.mark.parametrize("listed", [lambda m: m, lambda m: m.parameters()], ids=["model", "parameters"])
def test_all_of_them_frozen_is_a_warning_and_no_error(listed):
    """Biases alone may learn, or the weights later."""
    model = network()
    model[2].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="AdamCPR has nothing to regularize yet: every parameter .* is frozen"):
        optimizer = AdamCPR(listed(model), **WARM_START)
    train(model, optimizer, 0, 5)
    assert optimizer.constraints() == []
    model.requires_grad_(True)
    train(model, optimizer, 5, 9)
    assert len(optimizer.constraints()) == 2 and all(row.bounded for row in optimizer.constraints())


def test_one_that_is_not_is_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamCPR(network())


def test_quantized_weights_under_adapters_have_no_constraint():
    """As QLoRA keeps them: whole numbers, which cannot have a gradient."""
    model = network()
    model[0].weight = nn.Parameter(torch.ones(6, 4, dtype=torch.uint8), requires_grad=False)
    optimizer = AdamCPR(model, **WARM_START)
    model[2](torch.ones(3, 6)).sum().backward()
    optimizer.step()
    assert names(optimizer) == ["2.weight"]
    optimizer.load_state_dict(round_trip(optimizer.state_dict()))
