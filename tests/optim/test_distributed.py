"""Two processes: DDP keeps ranks bitwise equal; FSDP2 trains as one process does, with R of the whole tensor."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from nnunet_cpr.optim import AdamCPR

CASES = (
    {"kappa_init_method": "warm_start", "kappa_init_param": 5},
    {"kappa_init_method": "inflection_point", "reg_step_size": 3},
    {"kappa_init_method": "dependent", "kappa_init_param": 0.7, "reg_function": "std"},
    {"kappa_init_method": "dependent", "kappa_init_param": 0.7, "reg_function": "huber"},
    {"kappa_init_method": "uniform", "kappa_init_param": 20.0, "reg_function": "l1", "step_form": "proximal"},
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 3))  # shards are uneven


def train(model, opt, x, y, steps=60):
    for _ in range(steps):
        opt.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        opt.step()


def batch():
    g = torch.Generator().manual_seed(1)
    return torch.randn(64, 20, generator=g), torch.randn(64, 3, generator=g)


def sharded(rank):
    from torch.distributed.fsdp import fully_shard

    x, y = batch()
    for case in CASES:
        whole, parts = network(), network()
        fully_shard(parts)
        opts = AdamCPR(whole, lr=1e-2, **case), AdamCPR(parts, lr=1e-2, **case)
        for model, opt in zip((whole, parts), opts, strict=True):
            train(model, opt, x, y)
        for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(q.full_tensor(), p.detach(), rtol=1e-4, atol=1e-5)
        for one, other in zip(opts[0].constraints(), opts[1].constraints(), strict=True):
            assert one.name == other.name and one.bounded and other.bounded
            assert other.reg == pytest.approx(one.reg, rel=1e-4)
            assert other.kappa == pytest.approx(one.kappa, rel=1e-4)


def data_parallel(rank):
    x, y = batch()
    model = nn.parallel.DistributedDataParallel(network())
    opt = AdamCPR(model, lr=1e-2, **CASES[0])
    train(model, opt, x[rank::2], y[rank::2])
    mine = torch.cat([torch.tensor([[c.kappa, c.lagmul]]).flatten() for c in opt.constraints()])
    mine = torch.cat([mine, *(p.detach().flatten() for p in model.parameters())])
    everyone = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(everyone, mine)
    assert mine.isfinite().all() and torch.equal(*everyone)


def process(rank, port, work):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    work(rank)
    dist.destroy_process_group()


@pytest.mark.parametrize("work", [sharded, data_parallel])
def test_two_processes(work):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, work), nprocs=2)
