"""R, its gradient as the explicit step applies it, and the degenerate tensors."""

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, STEP_FORMS, one_step
from reference import algorithm1

from nnunet_cpr.optim import SGDCPR, AdamCPR

SHAPES = [(3, 4), (1, 9), (9, 1), (4, 3, 2, 2), (2, 3, 3, 3, 3), (70, 1000)]


def first_r(p, reg):
    """R of p as the optimizer sees it: kappa of `dependent` with factor 1."""
    opt = SGDCPR([p], lr=0.0, kappa_init_method="dependent", kappa_init_param=1.0, reg_function=reg)
    one_step(opt, [p])
    return float(opt.state[p]["kappa"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_explicit_step_is_minus_lambda_times_the_autograd_gradient(reg, shape):
    theta = 0.7 + 1.3 * torch.randn(shape, dtype=torch.float64)
    p = torch.nn.Parameter(theta.clone())
    opt = SGDCPR([p], lr=0.1, kappa_init_method="uniform", kappa_init_param=0.1, reg_function=reg, kappa_update=0.1)
    one_step(opt, [p])
    lam = float(opt.state[p]["lagmul"])
    assert lam > 0
    expected = theta - lam * algorithm1.gradient(reg, theta)
    assert (p.detach() - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_the_gradient_itself_to_1e_10(reg):
    """lambda is made 1 exactly, so the difference of the weights is the gradient and nothing hides behind a scale."""
    theta = torch.randn(6, 5, dtype=torch.float64)
    r = float(algorithm1.regularizer(reg, theta))
    n = algorithm1.divisor(reg, theta)
    p = torch.nn.Parameter(theta.clone())
    opt = SGDCPR([p], lr=0.1, kappa_init_method="uniform", kappa_init_param=0.0, reg_function=reg, kappa_update=n / r)
    one_step(opt, [p])
    assert float(opt.state[p]["lagmul"]) == pytest.approx(1.0, rel=1e-12)
    gradient = algorithm1.gradient(reg, theta)
    assert ((theta - p.detach()) - gradient).norm() <= 1e-10 * gradient.norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_r_in_float64(reg, shape):
    p = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    assert first_r(p, reg) == pytest.approx(float(algorithm1.regularizer(reg, p.detach())), rel=1e-12)


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_r_of_low_precision_weights_is_not_quantized(dtype, reg):
    p = torch.nn.Parameter((0.5 + torch.randn(300, 257)).to(dtype))
    assert first_r(p, reg) == pytest.approx(float(algorithm1.regularizer(reg, p.detach().double())), rel=1e-6)


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_float16_does_not_overflow(reg):
    p = torch.nn.Parameter(torch.full((100, 100), 300.0, dtype=torch.float16))
    p.data[0, 0] = -300.0
    assert first_r(p, reg) == pytest.approx(float(algorithm1.regularizer(reg, p.detach().double())), rel=1e-6)


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_memory_layout_does_not_matter(reg):
    """channels_last_3d, transposed and sliced weights: the same R and the same step as their contiguous copies."""
    base = torch.randn(6, 4, 3, 3, 3, dtype=torch.float64)
    wide = torch.randn(8, 12, dtype=torch.float64)
    for theta in (base.contiguous(memory_format=torch.channels_last_3d), wide.t(), wide[:, ::2]):
        pair = [
            torch.nn.Parameter(theta),
            torch.nn.Parameter(theta.detach().clone(memory_format=torch.contiguous_format)),
        ]
        bound = {"kappa_init_method": "dependent", "kappa_init_param": 0.3, "kappa_update": 0.01}
        opt = AdamCPR(pair, lr=1e-2, reg_function=reg, **bound)
        for step in range(3):
            for p in pair:
                p.grad = torch.sin(p.detach() + step)
            opt.step()
        assert opt.state[pair[0]]["lagmul"] > 0
        torch.testing.assert_close(pair[0].detach(), pair[1].detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("theta", [torch.full((4, 4), 0.3), torch.zeros(4, 4), torch.ones(1, 1)], ids=["c", "0", "one"])
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_constant_tensors_and_single_elements_stay_finite(reg, theta, form):
    p = torch.nn.Parameter(theta.clone())
    opt = SGDCPR(
        [p],
        lr=0.0,
        kappa_init_method="uniform",
        kappa_init_param=0.0,
        reg_function=reg,
        step_form=form,
        kappa_update=0.1,
    )
    for _ in range(5):
        one_step(opt, [p])
    assert torch.isfinite(p).all()
    assert torch.isfinite(opt.state[p]["lagmul"])
    if reg == "std":
        torch.testing.assert_close(p.detach(), theta, rtol=1e-6, atol=0)


def test_std_of_a_constant_tensor_already_bound():
    """lambda > 0 from a spread tensor that then becomes constant: 0 / 0 in the chain rule must not show."""
    p = torch.nn.Parameter(torch.randn(4, 4))
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=0.1, reg_function="std", kappa_update=0.1)
    one_step(opt, [p])
    assert opt.state[p]["lagmul"] > 0
    with torch.no_grad():
        p.fill_(0.25)
    one_step(opt, [p])
    assert torch.equal(p.detach(), torch.full((4, 4), 0.25))


def test_mu_is_divided_by_the_element_count_except_for_std():
    for reg, divided in (("l2", True), ("l1", True), ("huber", True), ("std", False)):
        theta = torch.randn(5, 8, dtype=torch.float64)
        p = torch.nn.Parameter(theta.clone())
        opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=0.2, reg_function=reg, kappa_update=0.6)
        one_step(opt, [p])
        expected = 0.6 / (40 if divided else 1) * (float(algorithm1.regularizer(reg, theta)) - 0.2)
        assert float(opt.state[p]["lagmul"]) == pytest.approx(expected, rel=1e-12)


def test_l1_gradient_is_the_sign_not_the_weights():
    theta = torch.tensor([[3.0, -0.01], [0.5, -7.0]], dtype=torch.float64)
    p = torch.nn.Parameter(theta.clone())
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=1.0, reg_function="l1", kappa_update=0.01)
    one_step(opt, [p])
    moved = (theta - p.detach()) / float(opt.state[p]["lagmul"])
    torch.testing.assert_close(moved, theta.sign(), rtol=1e-9, atol=1e-9)
