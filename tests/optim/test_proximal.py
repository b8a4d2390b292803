"""Each proximal step solves min_x 0.5 ||x - theta||^2 + lambda R(x): checked by minimizing it numerically."""

import numpy as np
import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, one_step
from reference import algorithm1

from nnunet_cpr.optim import SGDCPR

SHAPES = [(3, 4), (2, 2, 2), (1, 6)]


def step_of_ours(theta, reg, mu, kappa=0.1):
    """One step with zero gradients: weights move by the proximal step alone. Returns (weights, lambda)."""
    p = torch.nn.Parameter(theta.clone())
    opt = SGDCPR(
        [p],
        lr=0.1,
        kappa_init_method="uniform",
        kappa_init_param=kappa,
        reg_function=reg,
        kappa_update=mu,
        step_form="proximal",
    )
    one_step(opt, [p])
    return p.detach(), float(opt.state[p]["lagmul"])


def objective(x, theta, reg, lam):
    return 0.5 * float(((x - theta) ** 2).sum()) + lam * float(algorithm1.regularizer(reg, x))


@pytest.mark.parametrize("mu", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_solves_its_minimization(reg, shape, mu):
    theta = 1.5 * torch.randn(shape, dtype=torch.float64)
    ours, lam = step_of_ours(theta, reg, mu)
    assert lam > 0
    best = objective(ours, theta, reg, lam)
    # The objective is strictly convex: a point no neighbor improves on, at any scale, is the minimum.
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(100):
            x = ours + scale * torch.randn(shape, dtype=torch.float64)
            assert objective(x, theta, reg, lam) >= best - 1e-12 * abs(best)
    for i in range(ours.numel()):
        for sign in (-1, 1):
            x = ours.clone()
            x.view(-1)[i] += sign * 1e-5
            assert objective(x, theta, reg, lam) >= best - 1e-12 * abs(best)


@pytest.mark.parametrize("mu", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_agrees_with_a_numerical_minimizer(reg, mu):
    optimize = pytest.importorskip("scipy.optimize")
    theta = 1.5 * torch.randn(3, 4, dtype=torch.float64)
    ours, lam = step_of_ours(theta, reg, mu)

    def f(x):
        return objective(torch.from_numpy(x.reshape(3, 4)), theta, reg, lam)

    x = theta.numpy().ravel()
    for _ in range(3):  # restarts: Powell needs no gradient, so kinks do not matter
        x = optimize.minimize(f, x, method="Powell", options={"xtol": 1e-10, "ftol": 1e-14, "maxiter": 50_000}).x
    np.testing.assert_allclose(ours.numpy().ravel(), x, atol=3e-4)
    assert f(ours.numpy().ravel()) <= f(x) + 1e-9


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_reference_and_ours_have_the_same_proximal_step(reg):
    theta = 2 * torch.randn(6, 5, dtype=torch.float64)
    ours, lam = step_of_ours(theta, reg, 0.3)
    torch.testing.assert_close(ours, algorithm1.proximal(reg, theta, lam), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_never_flips_a_sign_or_overshoots(reg):
    theta = torch.randn(8, 8, dtype=torch.float64)
    ours, lam = step_of_ours(theta, reg, 1e4)
    assert lam > 100
    assert torch.isfinite(ours).all()
    if reg == "std":
        torch.testing.assert_close(ours, torch.full_like(ours, float(theta.mean())), rtol=1e-9, atol=1e-12)
    else:
        assert (ours * theta >= 0).all()
        assert (ours.abs() <= theta.abs()).all()


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_l1_style_oscillation_cannot_run_away(reg):
    """A tiny bound that pulls hard for long: the proximal form stays finite and ends at or below the start."""
    p = torch.nn.Parameter(torch.randn(16, 16))
    start = float(algorithm1.regularizer(reg, p.detach().double()))
    opt = SGDCPR(
        [p], lr=1e-3, kappa_init_method="uniform", kappa_init_param=1e-3, reg_function=reg, step_form="proximal"
    )
    for _ in range(300):
        p.grad = 0.1 * torch.ones_like(p)
        opt.step()
    assert torch.isfinite(p).all()
    assert float(algorithm1.regularizer(reg, p.detach().double())) <= start


@pytest.mark.parametrize("bound", [0.01, 1.0, 20.0])
@pytest.mark.parametrize(("excess", "runs_away"), [(0.45, False), (1.05, True)])
def test_only_the_explicit_step_runs_away_from_a_large_excess(bound, excess, runs_away):
    """docs/explanation/cpr.md: past 1 in mean square over its bound, with mu = 1, l2's explicit step diverges."""

    def largest(step_form):
        p = torch.nn.Parameter(torch.full((4, 6), (bound + excess) ** 0.5, dtype=torch.float64))
        options = {"kappa_init_method": "uniform", "kappa_init_param": bound * p.numel(), "step_form": step_form}
        opt = SGDCPR([p], lr=0.1, **options)
        seen = []
        for _ in range(100):
            one_step(opt, [p])
            seen.append(float(p.detach().abs().max()))
        return max(seen), seen[-1], bound**0.5

    most, last, allowed = largest("explicit")
    assert (not most < 1e6) == runs_away
    assert runs_away or last <= allowed
    most, last, allowed = largest("proximal")
    assert most < (bound + excess) ** 0.5
    assert last <= allowed
