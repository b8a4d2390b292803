"""Groups that join an optimizer later: with or without names, with the optimizer's settings or their own."""

import pytest
import torch
from optim_helpers import assert_same_bits, bits, documented, round_trip
from torch import nn

from nnunet_cpr.optim import AdamCPR, cpr, param_groups

SETTINGS = {"lr": 0.02, "kappa_init_method": "warm_start", "kappa_init_param": 3, "kappa_update": 0.3}


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(4, 6), nn.Tanh()), "head": nn.Linear(6, 2)})


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model["head"](model["backbone"](x)) - 3 * x[:, :2]).square().mean().backward()
        optimizer.step()


def names(optimizer):
    return [group.get("param_names") for group in optimizer.param_groups]


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD, torch.optim.NAdam])
def test_plain_parameters_join_an_optimizer_made_from_a_model(base):
    """As Lightning's BackboneFinetuning adds them. An optimizer without any names does the same."""
    ends = []
    for named in (True, False):
        model = network()
        head = model["head"] if named else model["head"].parameters()
        optimizer = cpr(base)(head, **SETTINGS)
        train(model, optimizer, 0, 6)
        optimizer.add_param_group({"params": model["backbone"].parameters(), "lr": 0.01})
        train(model, optimizer, 6, 12)
        ends.append(bits(model.parameters()))
    assert_same_bits(*ends)


def test_settings_of_a_late_group_are_the_optimizers_and_names_its_keys_in_the_state():
    model = network()
    optimizer = AdamCPR(model["head"], **SETTINGS)
    optimizer.add_param_group({"params": model["backbone"].parameters()})
    assert names(optimizer) == [["weight"], ["bias"], ["param 2", "param 3"]]
    late = optimizer.param_groups[2]
    assert {key: late[key] for key in SETTINGS} == SETTINGS
    assert late["regularize"] is None  # by the number of dimensions
    assert [row.name for row in optimizer.constraints()] == ["weight", "param 2"]
    optimizer.add_param_group({"params": nn.Parameter(torch.ones(2, 2)), "kappa_update": 0.5, "regularize": False})
    assert optimizer.param_groups[3]["param_names"] == ["param 4"]
    assert optimizer.param_groups[3]["kappa_update"] == 0.5
    assert [row.name for row in optimizer.constraints()] == ["weight", "param 2"]


def test_the_warm_start_of_a_late_group_begins_when_it_joins():
    model = network()
    optimizer = AdamCPR(model["head"], **SETTINGS)
    train(model, optimizer, 0, 6)
    optimizer.add_param_group({"params": model["backbone"].parameters()})
    train(model, optimizer, 6, 9)
    assert [row.bounded for row in optimizer.constraints()] == [True, False]
    reg = float((model["backbone"][0].weight.detach() ** 2).sum())
    train(model, optimizer, 9, 10)
    assert optimizer.constraints()[1].kappa == pytest.approx(reg, rel=1e-6)


def test_named_groups_join_an_optimizer_without_names():
    model = network()
    optimizer = AdamCPR(model["head"].parameters(), **SETTINGS)
    for group in param_groups(model["backbone"]):
        optimizer.add_param_group(group)
    assert names(optimizer) == [["param 0", "param 1"], ["0.weight"], ["0.bias"]]
    train(model, optimizer, 0, 2)


def test_the_example_of_the_documentation():
    class Model(nn.Module):
        backbone = network()["backbone"]

    (code,) = documented("reference/optim.md", "### Groups added later")
    optimizer = AdamCPR(network()["head"], **SETTINGS)
    exec(code, {"optimizer": optimizer, "model": Model, "param_groups": param_groups})
    assert names(optimizer) == [["weight"], ["bias"], ["0.weight"], ["0.bias"]]
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False, True, False]


def test_named_and_other_groups_may_be_given_at_once():
    model = network()
    optimizer = AdamCPR(
        [{"params": model["head"].named_parameters()}, {"params": model["backbone"].parameters()}], **SETTINGS
    )
    assert names(optimizer) == [["weight", "bias"], ["param 2", "param 3"]]


def test_an_empty_group_may_join():
    optimizer = AdamCPR(network()["head"], **SETTINGS)
    optimizer.add_param_group({"params": []})
    assert optimizer.param_groups[-1]["params"] == []


def test_resumes_bit_for_bit():
    def start():
        model = network()
        optimizer = AdamCPR(model["head"], **SETTINGS)
        return model, optimizer

    def unfreeze(model, optimizer):
        optimizer.add_param_group({"params": model["backbone"].parameters(), "kappa_update": 0.2})

    model, optimizer = start()
    train(model, optimizer, 0, 4)
    unfreeze(model, optimizer)
    train(model, optimizer, 4, 10)
    saved = round_trip({"model": model.state_dict(), "opt": optimizer.state_dict()})
    again, other = start()
    unfreeze(again, other)
    other.param_groups[2]["kappa_update"] = 0.9  # the checkpoint's wins
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["opt"])
    assert other.param_groups[2]["kappa_update"] == 0.2
    train(model, optimizer, 10, 16)
    train(again, other, 10, 16)
    assert optimizer.constraints() == other.constraints()
    assert any(row.active for row in other.constraints())
    assert_same_bits(bits(again.parameters()), bits(model.parameters()))


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"kappa_update": -1.0}, "kappa_update"),
        ({"weight_decay": 0.1, "regularize": True}, "weight_decay"),
        ({"params": "same"}, "more than one parameter group"),
        ({"params": [3]}, "can only optimize Tensors"),
        ({"params": {1, 2}}, "sets"),
    ],
)
@pytest.mark.parametrize("named_first", [True, False])
def test_a_bad_group_adds_nothing_and_names_nothing(wrong, error, named_first):
    model = network()
    head = model["head"]
    optimizer = AdamCPR(head if named_first else head.parameters(), **SETTINGS)
    before = [dict(group) for group in optimizer.param_groups]
    added = [p if named_first else ("x", p) for p in model["backbone"].parameters()]
    group = {"params": added, **wrong}
    if wrong.get("params") == "same":
        group["params"] = [head.weight if named_first else ("x", head.weight)]
    with pytest.raises((TypeError, ValueError), match=error):
        optimizer.add_param_group(group)
    assert [dict(group) for group in optimizer.param_groups] == before


def test_a_default_that_is_changed_is_that_of_later_groups():
    optimizer = AdamCPR([nn.Parameter(torch.ones(2, 2))], **SETTINGS)
    optimizer.defaults["kappa_update"] = 0.7
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))]})
    assert [group["kappa_update"] for group in optimizer.param_groups] == [0.3, 0.7]


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_an_optimizer_made_in_a_compiled_function_has_its_settings(base):
    torch._dynamo.reset()
    cls = cpr(base)

    @torch.compile(backend="eager")
    def make(weight):
        doubled = weight * 2
        return cls([weight], **SETTINGS), doubled

    try:
        optimizer, _ = make(nn.Parameter(torch.ones(3, 3)))
    finally:
        torch._dynamo.reset()
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in SETTINGS} == SETTINGS
    assert {key: optimizer.defaults[key] for key in SETTINGS} == SETTINGS
    group["params"][0].grad = torch.ones(3, 3)
    optimizer.step()
    assert optimizer.state[group["params"][0]]["cpr_step"] == 1
