"""Every tensor counts its own steps: late first gradients and steps without a gradient are right."""

import math

import pytest
import torch
from optim_helpers import RULES, Pull, cpr_settings, make, matrix
from reference import algorithm1

from nnunet_cpr.optim import AdamCPR


def test_late_first_gradient_gets_its_own_warm_start():
    early, late = matrix(4, 4, seed=1), matrix(4, 4, seed=2)
    opt = AdamCPR([early, late], lr=1e-3, kappa_init_method="warm_start", kappa_init_param=5)
    start = late.detach().clone()
    for step in range(20):
        early.grad = torch.ones_like(early)
        late.grad = torch.ones_like(late) if step >= 10 else None
        opt.step()
        if step == 9:
            assert math.isfinite(opt.state[early]["kappa"])
            assert late not in opt.state or not opt.state[late]
            assert torch.equal(late.detach(), start)
        if step == 14:
            assert opt.state[late]["kappa"] == math.inf
    assert int(opt.state[early]["cpr_step"]) == 20
    assert int(opt.state[late]["cpr_step"]) == 10
    assert float(opt.state[late]["kappa"]) == pytest.approx(float((start**2).sum()), rel=0.1)
    assert float((late.detach() ** 2).sum()) > 0.5 * float((start**2).sum()), "it collapsed"


@pytest.mark.parametrize("rule", RULES)
def test_gaps_equal_the_reference(rule):
    """Tensor 1 misses every third step, tensor 0 the first forty."""
    pull = Pull(shapes=((5, 4), (3, 6), (4,)))
    params = pull.params()
    opt = make("Adam", params, rule, kappa_update=0.2)
    one = algorithm1.Settings(**cpr_settings(rule, kappa_update=0.2))
    ref = algorithm1.Reference(params, [one, one, None], lambda: algorithm1.Adam(lr=0.02, betas=(0.9, 0.99)))
    for step in range(300):
        missing = {0} if step < 40 else set()
        if step % 3 == 1:
            missing.add(1)
        ours = pull.grads(params, step)
        for i, p in enumerate(params):
            p.grad = None if i in missing else ours[i]
        opt.step()
        ref.step([None if i in missing else g for i, g in enumerate(pull.grads(ref.theta, step))])
    assert [int(opt.state[p]["cpr_step"]) for p in params[:2]] == [260, 200]
    for p, theta in zip(params, ref.theta, strict=True):
        torch.testing.assert_close(p.detach(), theta, rtol=1e-9, atol=1e-10)


def test_a_missing_gradient_at_the_deciding_step_delays_the_bound_and_sets_it_once():
    p = matrix(4, 4)
    opt = AdamCPR([p], lr=0.0, kappa_init_method="warm_start", kappa_init_param=3)
    r = float((p.detach() ** 2).sum())
    for step in range(8):
        p.grad = None if step in (3, 4) else torch.zeros_like(p)
        opt.step()
        assert math.isinf(opt.state[p]["kappa"]) == (step < 5)
    assert float(opt.state[p]["kappa"]) == pytest.approx(r)


def test_a_constraint_needs_a_gradient():
    p = matrix(4, 4)
    opt = AdamCPR([p], kappa_init_method="uniform", kappa_init_param=0.1)
    before = p.detach().clone()
    for _ in range(3):
        opt.step()
    assert torch.equal(p.detach(), before)
    assert not opt.state.get(p)


def test_frozen_then_unfrozen():
    p = matrix(4, 4)
    p.requires_grad_(False)
    q = matrix(4, 4)
    opt = AdamCPR([p, q], lr=1e-3, kappa_init_method="dependent", kappa_init_param=1.0)
    q.grad = torch.ones_like(q)
    opt.step()
    p.requires_grad_(True)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    r = float((p.detach() ** 2).sum())
    opt.step()
    assert float(opt.state[p]["kappa"]) == pytest.approx(r)
