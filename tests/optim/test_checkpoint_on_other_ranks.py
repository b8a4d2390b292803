"""Trained and saved under FSDP2 on two gloo processes, loaded on one and on three: it goes on as it would have.

Compared with one process that was never interrupted.
"""

import functools

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from gloo_ranks import on_ranks
from optim_helpers import cpr_settings
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from nnunet_cpr.optim import SGDCPR, AdamCPR

pytestmark = pytest.mark.slow

OPTIONS = {AdamCPR: {"lr": 0.02}, SGDCPR: {"lr": 0.01, "momentum": 0.8}}
# A layer each. Warm start and inflection point set their bounds after 30 steps: one checkpoint is before, one after.
SETTINGS = {
    "0": cpr_settings("warm_start", "l2", kappa_update=0.2),
    "2": cpr_settings("inflection_point", "huber", kappa_update=0.2),
    "4": cpr_settings("dependent", "std", kappa_update=0.02),
    "6": cpr_settings("uniform", "l1", kappa_update=0.02, kappa_init_param=5.0),
}
FORMATS = {
    "nested": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True),
}
CASES = [(AdamCPR, 20, "nested"), (AdamCPR, 45, "flattened"), (AdamCPR, 45, "full"), (SGDCPR, 45, "nested")]
END = 60
ROWS = 12


def network():
    """Uneven shards: 7 and 3 rows, and one row, which leaves all ranks but the first none of it."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1)]
    return nn.Sequential(*layers).double()


def build(cls, sharded, other_weights=False):
    from torch.distributed.fsdp import fully_shard

    model = network()
    if other_weights:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
    if sharded:
        fully_shard(model)
    groups = [{"params": list(model[int(i)].named_parameters(i)), **settings} for i, settings in SETTINGS.items()]
    return model, cls(groups, **OPTIONS[cls])


def train(model, opt, start, stop):
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for step in range(start, stop):
        x = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[rank::size]
        opt.zero_grad()
        (model(x) - 4 * x[:, :1]).square().mean().backward()
        opt.step()


def outcome(model, opt):
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return [p.detach() for p in whole], [(row.reg, row.kappa, row.lagmul) for row in opt.constraints()]


@functools.cache
def uninterrupted(cls):
    model, opt = build(cls, sharded=False)
    train(model, opt, 0, END)
    return outcome(model, opt)


def check_save(cls, at, name, folder):
    options = FORMATS[name]
    model, opt = build(cls, sharded=True)
    train(model, opt, 0, at)
    state = {
        "model": get_model_state_dict(model, options=options),
        "optim": get_optimizer_state_dict(model, opt, options=options),
    }
    if name != "full":
        dcp.save(state, checkpoint_id=folder)
    elif dist.get_rank() == 0:
        torch.save(state, f"{folder}.pt")


def check_load(cls, at, name, folder):
    """Load into a model with other weights, train to the end, and return what came of it."""
    options, sharded = FORMATS[name], dist.is_initialized()
    model, opt = build(cls, sharded, other_weights=True)
    if name != "full":
        state = {
            "model": get_model_state_dict(model, options=options),
            "optim": get_optimizer_state_dict(model, opt, options=options),
        }
        dcp.load(state, checkpoint_id=folder)
    elif not sharded or dist.get_rank() == 0:
        state = torch.load(f"{folder}.pt", weights_only=True)
        options = options if sharded else StateDictOptions(full_state_dict=True)
    else:
        state = {"model": {}, "optim": {}}
    set_model_state_dict(model, state["model"], options=options)
    set_optimizer_state_dict(model, opt, state["optim"], options=options)
    train(model, opt, at, END)
    return outcome(model, opt)


def place(folder, cls, at, name):
    return str(folder / f"{cls.__name__} {at} {name}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    checks = {case: (check_save, *case, place(folder, *case)) for case in CASES}
    assert on_ranks(2, checks, folder) == [dict.fromkeys(checks)] * 2
    return folder


@pytest.fixture(scope="module")
def on_three(saved):
    return on_ranks(3, {case: (check_load, *case, place(saved, *case)) for case in CASES}, saved)


def assert_as_uninterrupted(found, cls):
    weights, rows = uninterrupted(cls)
    assert sum(lagmul > 0 for _, _, lagmul in rows) >= 2
    torch.testing.assert_close(found[0], weights, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(rows), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_saved_on_two_ranks_goes_on_on_three(on_three, case):
    for result in on_three:
        assert_as_uninterrupted(result[case], case[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_saved_on_two_ranks_goes_on_on_one(saved, case):
    assert_as_uninterrupted(check_load(*case, place(saved, *case)), case[0])
