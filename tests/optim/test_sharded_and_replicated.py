"""Two gloo processes: FSDP2 constrains whole tensors, DDP keeps ranks bitwise equal. One start-up for all checks."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from optim_helpers import REGULARISERS, RULES, STEP_FORMS, cpr_settings
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR

CASES = [(AdamCPR, rule, "l2", "explicit") for rule in RULES]
CASES += [(AdamCPR, "dependent", reg, form) for reg in ("l1", "std", "huber") for form in STEP_FORMS]
CASES += [(SGDCPR, "warm_start", "l2", "proximal")]
DDP_CASES = [(AdamCPR, rule) for rule in RULES] + [(SGDCPR, "warm_start")]
STEPS = 50


def network():
    """Uneven shards: 7 and 3 rows, and one row, which leaves the second rank none of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def batch(step):
    g = torch.Generator().manual_seed(step)
    x = torch.randn(8, 5, generator=g, dtype=torch.float64)
    return x, 4 * x[:, :1]


def build(cls, model, rule, reg, form):
    options = {"lr": 0.02} if cls is AdamCPR else {"lr": 0.01, "momentum": 0.8}
    settings = {**cpr_settings(rule, reg, step_form=form), "kappa_update": 0.2}
    if rule == "uniform":
        settings["kappa_init_param"] = 0.5
    return cls(model, **options, **settings)


def train(model, opt, rows=slice(None), steps=STEPS):
    for step in range(steps):
        x, y = batch(step)
        opt.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        opt.step()


def check_fsdp(case):
    from torch.distributed.fsdp import fully_shard

    whole, parts = network(), network()
    fully_shard(parts)
    one, other = build(case[0], whole, *case[1:]), build(case[0], parts, *case[1:])
    train(whole, one)
    train(parts, other)
    for (name, p), q in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor(), p.detach(), rtol=1e-9, atol=1e-11, msg=f"{case} {name}")
    for a, b in zip(one.constraints(), other.constraints(), strict=True):
        assert (a.name, a.numel, a.active) == (b.name, b.numel, b.active), case
        assert [b.reg, b.kappa, b.lagmul] == pytest.approx([a.reg, a.kappa, a.lagmul], rel=1e-8, abs=1e-12), case


def check_collectives(reg, layers):
    """Return the number of collectives of one optimizer step."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.debug import CommDebugMode

    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers)])
    fully_shard(model)
    opt = build(AdamCPR, model, "dependent", reg, "explicit")
    model(torch.ones(2, 4)).sum().backward()
    opt.step()
    with CommDebugMode() as comms:
        opt.step()
    calls = [0]
    original = dist.all_reduce

    def counted(*args, **kwargs):
        calls[0] += 1
        return original(*args, **kwargs)

    torch.distributed.all_reduce = counted
    try:
        opt.step()
    finally:
        torch.distributed.all_reduce = original
    return max(comms.get_total_counts(), calls[0])


def check_ddp(cls, rule, reg):
    rank = dist.get_rank()
    model = nn.parallel.DistributedDataParallel(network())
    opt = build(cls, model, rule, reg, "explicit")
    train(model, opt, rows=slice(rank, None, 2))
    rows = opt.constraints()
    assert all("module." not in row.name for row in rows)
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    mine = torch.cat([mine, torch.tensor([v for row in rows for v in (row.kappa, row.lagmul)], dtype=torch.float64)])
    everyone = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(everyone, mine)
    assert torch.equal(*everyone), (cls, rule, reg)


def attempt(results, key, check, *args):
    try:
        results[key] = check(*args)
    except Exception as e:
        results[key] = f"{type(e).__name__}: {e}"


def worker(rank, port, file):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for case in CASES:
        attempt(results, ("fsdp", *case), check_fsdp, case)
    for reg in REGULARISERS:
        attempt(results, ("collectives", reg), lambda r=reg: [check_collectives(r, n) for n in (2, 9)])
    for cls, rule in DDP_CASES:
        attempt(results, ("ddp", cls, rule), check_ddp, cls, rule, "l2")
    dist.destroy_process_group()
    torch.save(results, f"{file}.{rank}")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("two") / "results"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(file)), nprocs=2)
    return [torch.load(f"{file}.{rank}", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}-{'-'.join(c[1:])}")
def test_fsdp2_trains_as_one_process_does(results, case):
    assert [r[("fsdp", *case)] for r in results] == [None, None]


@pytest.mark.parametrize("reg", REGULARISERS)
def test_collectives_do_not_grow_with_the_number_of_tensors(results, reg):
    """The authors' package needs one all-reduce per tensor per step."""
    few, many = results[0]["collectives", reg]
    assert 0 < few == many


@pytest.mark.parametrize("cls, rule", DDP_CASES)
def test_ddp_ranks_are_bitwise_equal(results, cls, rule):
    assert [r["ddp", cls, rule] for r in results] == [None, None]
