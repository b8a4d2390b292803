"""Empty, scalar, complex and sparse parameters, mixed dtypes in one group."""

import pytest
import torch
from optim_helpers import (
    CLASSES,
    FUSED_SGD_LEAVES_OUT_HALF,
    REGULARIZER_NAMES,
    RULES,
    STEP_FORMS,
    Pull,
    assert_same_bits,
    cpr_settings,
    make,
    matrix,
)
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR


@pytest.mark.parametrize("regularize", [True, False, None])
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_empty_and_scalar_parameters(rule, reg, regularize):
    params = [torch.nn.Parameter(x) for x in (torch.empty(0, 3), torch.tensor(2.0), torch.ones(1), torch.empty(0))]
    groups = [{"params": params, "regularize": regularize}, {"params": [matrix(4, 4)]}]
    opt = AdamCPR(groups, lr=1e-2, **cpr_settings(rule, reg, kappa_update=0.01))  # no step flips a sign
    for _ in range(70):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    for p in params:
        assert torch.isfinite(p).all()
        for value in (opt.state[p].get("lagmul"), opt.state[p].get("kappa")):
            assert value is None or not torch.isnan(value)
    assert all(not torch.isnan(torch.tensor(row.reg)) for row in opt.constraints())


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("reg", ["l2", "l1", "huber"])
def test_a_scalar_is_a_tensor_of_one_element(reg, form):
    """The same numbers as a (1, 1) matrix."""
    scalar, matrix11 = torch.nn.Parameter(torch.tensor(3.0)), torch.nn.Parameter(torch.tensor([[3.0]]))
    opt = SGDCPR(
        [{"params": [scalar, matrix11], "regularize": True}],
        lr=0.0,
        reg_function=reg,
        step_form=form,
        kappa_init_method="uniform",
        kappa_init_param=0.5,
        kappa_update=0.05,
    )
    for _ in range(3):
        for p in (scalar, matrix11):
            p.grad = torch.zeros_like(p)
        opt.step()
    assert float(scalar.detach()) == float(matrix11.detach()) < 3.0


class TestComplex:
    def test_regularized_is_refused_with_the_reason(self):
        with pytest.raises((ValueError, RuntimeError, TypeError), match=r"complex.*CPR"):
            opt = AdamCPR([nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))])
            p = opt.param_groups[0]["params"][0]
            p.grad = torch.ones_like(p)
            opt.step()

    def test_unregularized_trains(self):
        z = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))
        twin = nn.Parameter(z.detach().clone())
        opt = AdamCPR([{"params": [z], "regularize": False}, {"params": [matrix(2, 2)]}], lr=0.1)
        base = torch.optim.Adam([twin], lr=0.1)
        for p in (z, twin):
            p.grad = torch.ones_like(p)
        opt.step()
        base.step()
        assert torch.equal(z.detach(), twin.detach())


class TestSparse:
    def embedding(self):
        e = nn.Embedding(6, 3, sparse=True)
        e(torch.tensor([1, 4])).sum().backward()
        return e.weight

    def test_regularized_is_refused_with_the_reason_and_nothing_moves(self):
        weight, other = self.embedding(), matrix(3, 3)
        before = [weight.detach().clone(), other.detach().clone()]
        opt = SGDCPR([other, weight], lr=0.1, kappa_init_method="uniform", kappa_init_param=0.1)
        other.grad = torch.ones_like(other)
        with pytest.raises((RuntimeError, ValueError), match="sparse"):
            opt.step()
        assert_same_bits([weight.detach(), other.detach()], before)

    def test_unregularized_trains(self):
        weight = self.embedding()
        before = weight.detach().clone()
        SGDCPR([{"params": [weight], "regularize": False}, {"params": [matrix(2, 2)]}], lr=0.1).step()
        assert torch.equal((weight.detach() != before).any(1), torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool))


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("name", CLASSES)
def test_mixed_dtypes_in_one_group_equal_separate_optimizers(name, reg):
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float32)
    pulls = [Pull(shapes=((5, 4),), seed=i, dtype=d) for i, d in enumerate(dtypes)]
    together = [pull.params()[0] for pull in pulls]
    apart = [pull.params()[0] for pull in pulls]
    settings = {"reg_function": reg, "kappa_update": 0.3, "kappa_init_param": 10}
    if name == "SGD" and FUSED_SGD_LEAVES_OUT_HALF:
        settings["fused"] = False  # else the float32 weights alone are fused, and together with bfloat16 they are not
    one = make(name, together, "warm_start", **settings)
    each = [make(name, [p], "warm_start", **settings) for p in apart]
    for step in range(60):
        for params in (together, apart):
            for pull, p in zip(pulls, params, strict=True):
                (p.grad,) = pull.grads([p], step)
        one.step()
        for opt in each:
            opt.step()
    assert all(opt.state[p]["lagmul"] > 0 for opt, p in zip(each, apart, strict=True))
    for p, q, opt in zip(together, apart, each, strict=True):
        assert_same_bits([p.detach(), one.state[p]["kappa"]], [q.detach(), opt.state[q]["kappa"]])


def test_a_tensor_does_not_depend_on_its_neighbors():
    """Many tensors are updated at once; each gets the bits it would get alone."""
    shapes = [(k % 7 + 1, 3 * k + 2) for k in range(40)]
    pull = Pull(shapes=shapes, dtype=torch.float32)
    params = pull.params()
    opt = make("Adam", params, "dependent")
    pull.run(opt, params, 0, 20)
    for i in (0, 13, 39):
        alone = Pull(shapes=shapes, dtype=torch.float32).params()[i]
        single = make("Adam", [alone], "dependent")
        for step in range(20):
            w = [alone if j == i else p for j, p in enumerate(params)]
            alone.grad = pull.grads(w, step)[i]
            single.step()
        assert torch.equal(alone.detach(), params[i].detach())
