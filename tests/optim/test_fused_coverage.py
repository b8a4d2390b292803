"""Which tensors kernels take, and which they leave to torch's own operators."""

import math

import pytest
import torch
from fused_backends import kernels
from optim_helpers import FUSED_BOUND, Pull, make_fused

from nnunet_cpr.optim import AdamCPR

pytestmark = kernels


class Subclass(AdamCPR):
    """A user's own."""


@pytest.mark.parametrize("case", ["not fused", "amsgrad", "bfloat16", "transposed", "l1", "subclass"])
def test_what_is_not_covered_trains_without_the_kernels(case, backend):
    pull = Pull(((4, 3, 3, 3),), dtype=torch.bfloat16 if case == "bfloat16" else torch.float32)
    (p,) = pull.params(backend.device)
    if case == "transposed":
        p = torch.nn.Parameter(p.detach().transpose(0, 3).contiguous().transpose(0, 3))
    options = {
        "fused": case != "not fused",
        "amsgrad": case == "amsgrad",
        "reg_function": "l1" if case == "l1" else "l2",
    }
    opt = (Subclass if case == "subclass" else AdamCPR)([p], lr=0.02, **FUSED_BOUND, **options)
    pull.run(opt, [p], 0, 20)
    assert float(opt.state[p]["lagmul"]) > 0
    assert backend.updated == []


def test_the_same_training_is_covered_otherwise(backend):
    pull = Pull(((4, 3, 3, 3),), dtype=torch.float32)
    params = pull.params(backend.device)
    pull.run(AdamCPR(params, lr=0.02, **FUSED_BOUND), params, 0, 20)
    assert len(backend.updated) == 19


def smaller(p, state):
    smaller_with_the_old_gradient(p, state)
    p.grad = p.grad[: len(p)].clone()


def smaller_with_the_old_gradient(p, state):
    p.data = p.data[: len(p) // 2]
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = state[name][: len(p)]


def another_layers_state(p, state):
    state["exp_avg"] = torch.zeros(2, 2, device=p.device)


def a_part_of_the_state(p, state):
    state["exp_avg"] = state["exp_avg"][:3]  # of the same address


def gradient_of_another_dtype(p, state):
    p.grad.data = p.grad.data.bfloat16()  # torch refuses one only when it is assigned


def transposed_weights(p, state):
    p.data = p.data.t()  # their gradient is not: in memory order it belongs to other elements


@pytest.mark.parametrize(
    "change",
    [
        smaller,
        smaller_with_the_old_gradient,
        another_layers_state,
        a_part_of_the_state,
        gradient_of_another_dtype,
        transposed_weights,
    ],
)
def test_tensors_that_change_are_noticed(change, backend):
    """Or the kernels would read and write past the end of a tensor, or elsewhere in it."""
    size = math.isqrt(backend.chunk) + 1  # two chunks, one of them when it is smaller
    pull = Pull(((size, size), (7, 5)), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params)
    pull.run(opt, params, 0, 3)
    assert backend.takes(opt, params)
    change(params[0], opt.state[params[0]])
    assert backend.takes(opt, params) == (change is smaller)
    if change is smaller:
        exact = torch.stack([p.detach().double().square().sum() for p in params]).float()
        torch.testing.assert_close(backend.norms(opt, params), exact)


def test_weights_that_overlap_are_not_covered(backend):
    pull = Pull(((5, 4),), dtype=torch.float32)
    whole = pull.params(backend.device)[0].data.view(-1)
    params = [torch.nn.Parameter(whole[start : start + 12].view(3, 4)) for start in (0, 8)]
    opt = make_fused(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    assert backend.updated == []


def test_weights_that_share_memory_are_not_covered(backend):
    """They would be written twice, and the R of the first would be that of neither."""
    pull = Pull(((7, 5),), dtype=torch.float32)
    (p,) = pull.params(backend.device)
    params = [p, torch.nn.Parameter(p.data)]
    opt = make_fused(params)
    for step in range(20):
        for param in params:
            (param.grad,) = pull.grads([p], step)
        opt.step()
    before = [float(opt.state[q]["lagmul"]) for q in params]
    true = float((p.detach().double() ** 2).sum())
    for q in params:
        q.grad = torch.zeros_like(p)
    opt.step()
    assert backend.updated == []
    for q, lagmul in zip(params, before, strict=True):
        expected = max(0.0, lagmul + 0.3 / 35 * (true - float(opt.state[q]["kappa"])))
        assert float(opt.state[q]["lagmul"]) == pytest.approx(expected, rel=1e-5)
