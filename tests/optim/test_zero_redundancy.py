"""Two gloo processes: ZeRO-1 (ZeroRedundancyOptimizer) equals one process bit for bit; FSDP1 is refused."""

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import on_ranks
from optim_helpers import assert_same_bits, bits, documented
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from nnunet_cpr.optim import SGDCPR, AdamCPR

SETTINGS = {"kappa_init_method": "warm_start", "kappa_init_param": 5, "kappa_update": 0.2}
BASE = {AdamCPR: {"lr": 0.02}, SGDCPR: {"lr": 0.01, "momentum": 0.8}}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def documented_groups(model):
    (code,) = documented("reference/optim.md", "### ZeRO-1")
    space = {"model": model}
    exec(code, space)
    return space["groups"]


def one_by_one(model):
    """Each tensor a group, so that every group is empty on one of the ranks."""
    return [{"params": [p], "regularize": p.ndim > 1} for p in model.parameters()]


GROUPS = {
    "parameters": lambda model: list(model.parameters()),
    "documented": documented_groups,
    "one by one": one_by_one,
}
CASES = [(cls, groups, view) for cls in (AdamCPR, SGDCPR) for groups in GROUPS for view in (False, True)]


def train(model, optimizer, start, stop):
    """On every rank the same rows, so that one process without DDP is an exact reference."""
    for step in range(start, stop):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - 4 * x[:, :1]).square().mean().backward()
        optimizer.step()


def zero(model, cls, groups, view):
    ddp = nn.parallel.DistributedDataParallel(model)
    return ddp, ZeroRedundancyOptimizer(
        GROUPS[groups](model), optimizer_class=cls, parameters_as_bucket_view=view, **BASE[cls], **SETTINGS
    )


def check_zero(cls, groups, view):
    plain, model = network(), network()
    reference = cls(GROUPS[groups](plain), **BASE[cls], **SETTINGS)
    ddp, optimizer = zero(model, cls, groups, view)
    assert len(optimizer.optim.state) == 0
    train(plain, reference, 0, 20)
    train(ddp, optimizer, 0, 20)
    assert any(c.active for c in reference.constraints())
    assert 0 < len(optimizer.optim.state) < 8  # of the eight tensors this rank keeps some
    assert_same_bits(bits(model.parameters()), bits(plain.parameters()))

    optimizer.consolidate_state_dict(0)
    box = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, 0)
    again = network()
    again.load_state_dict(model.state_dict())
    ddp, optimizer = zero(again, cls, groups, view)
    optimizer.load_state_dict(box[0])
    train(plain, reference, 20, 40)
    train(ddp, optimizer, 20, 40)
    assert_same_bits(bits(again.parameters()), bits(plain.parameters()))


def check_fsdp1(use_orig_params):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    return AdamCPR(model, lr=0.1)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    checks = {case: (check_zero, *case) for case in CASES}
    checks |= {("fsdp1", flag): (check_fsdp1, flag) for flag in (True, False)}
    return on_ranks(2, checks, tmp_path_factory.mktemp("zero"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}-{c[1]}-{'view' if c[2] else 'copy'}")
def test_zero_trains_and_resumes_as_one_process_does(results, case):
    assert [r[case] for r in results] == [None, None]


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1_is_refused(results, use_orig_params):
    """Its parameters are flat pieces: R of a whole tensor cannot be had from them."""
    for r in results:
        assert "no parameter to regularize" in r["fsdp1", use_orig_params]
