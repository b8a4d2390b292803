"""When and to what each rule sets the bound, step by step on weights moved by hand."""

import math

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, matrix, one_step
from reference import algorithm1

from nnunet_cpr.optim import SGDCPR, AdamCPR
from nnunet_cpr.optim.regularizers import REGULARIZERS


def kappa(opt, p):
    state = opt.state[p]
    return float(state["kappa"]) if "kappa" in state else math.inf


def follow(opt, p, values):
    """Give the weights these R (l2) one step after the other; returns kappa after each step."""
    seen = []
    for r in values:
        with torch.no_grad():
            p.fill_(math.sqrt(r / p.numel()))
        one_step(opt, [p])
        seen.append(kappa(opt, p))
    return seen


def still(p, **kwargs):
    """An optimizer whose own step moves nothing."""
    return SGDCPR([p], lr=0.0, **kwargs)


class TestUniform:
    def test_bound_is_the_given_number_from_the_first_step(self):
        p = matrix(4, 4, dtype=torch.float64)
        opt = still(p, kappa_init_method="uniform", kappa_init_param=2.5)
        r = float((p.detach() ** 2).sum())
        one_step(opt, [p])
        assert kappa(opt, p) == 2.5
        assert float(opt.state[p]["lagmul"]) == pytest.approx((r - 2.5) / 16)

    @pytest.mark.parametrize("value", [1000.0, 1e6])
    def test_the_authors_magic_numbers_are_ordinary_bounds(self, value):
        p = torch.nn.Parameter(torch.full((2, 2), math.sqrt(value), dtype=torch.float64))
        opt = still(p, kappa_init_method="uniform", kappa_init_param=value)
        one_step(opt, [p])
        assert kappa(opt, p) == value
        assert float(opt.state[p]["lagmul"]) == pytest.approx(0.75 * value)


class TestDependent:
    def test_bound_is_the_factor_times_the_first_r(self):
        p = matrix(4, 4, dtype=torch.float64)
        opt = still(p, kappa_init_method="dependent", kappa_init_param=0.8)
        r = float((p.detach() ** 2).sum())
        one_step(opt, [p])
        assert kappa(opt, p) == pytest.approx(0.8 * r)

    def test_it_is_set_once(self):
        p = matrix(4, 4)
        opt = still(p, kappa_init_method="dependent", kappa_init_param=2.0)
        assert follow(opt, p, [1.0, 1.5, 0.5]) == pytest.approx([2.0] * 3)


class TestWarmStart:
    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_bound_is_r_after_s_unconstrained_steps(self, steps):
        p = matrix(4, 4)
        opt = still(p, kappa_init_method="warm_start", kappa_init_param=steps)
        seen = follow(opt, p, [2.0, 3.0, 4.0, 5.0, 5.5])
        assert seen[:steps] == [math.inf] * steps
        assert seen[steps:] == pytest.approx([2.0 + steps] * (5 - steps), rel=1e-6)

    def test_warm_start_zero_is_not_kappa_zero(self):
        p = matrix(4, 4)
        before = p.detach().clone()
        opt = still(p, kappa_init_method="warm_start", kappa_init_param=0)
        one_step(opt, [p])
        assert kappa(opt, p) == pytest.approx(float((before**2).sum()))
        assert torch.equal(p.detach(), before)

    @pytest.mark.parametrize("reg", REGULARIZER_NAMES)
    def test_unconstrained_steps_are_exactly_the_base_optimizers(self, reg):
        ours, plain = matrix(5, 5), matrix(5, 5)
        opt = AdamCPR([ours], lr=0.01, kappa_init_method="warm_start", kappa_init_param=10, reg_function=reg)
        base = torch.optim.Adam([plain], lr=0.01)
        for step in range(11):  # step 10 sets kappa = R: lambda is still 0
            for p in (ours, plain):
                p.grad = torch.cos(p.detach() + step)
            opt.step()
            base.step()
        assert torch.equal(ours.detach(), plain.detach())
        assert math.isfinite(kappa(opt, ours))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("reg", REGULARIZER_NAMES)
    def test_r_is_found_once_at_the_end_on_a_cpu(self, reg, dtype, monkeypatch):
        found = []
        regularizer = REGULARIZERS[reg]
        original = type(regularizer).value
        monkeypatch.setattr(regularizer, "value", lambda params: (found.append(1), original(regularizer, params))[1])
        p = matrix(5, 5, dtype=dtype)
        opt = AdamCPR([p], lr=0.01, kappa_init_method="warm_start", kappa_init_param=3, reg_function=reg, fused=False)
        calls = []
        for _ in range(5):
            one_step(opt, [p])
            calls.append(len(found))
        assert calls == [0, 0, 0, 1, 2]

    def test_a_multiplier_without_a_bound_ends(self):
        """As line 5 says: max(0, lambda + mu (R - inf)). Here it was set by hand, in a step that need not know R."""
        p = matrix(4, 4, dtype=torch.float64)
        opt = still(p, kappa_init_method="warm_start", kappa_init_param=100)
        one_step(opt, [p])
        opt.state[p]["lagmul"].fill_(0.1)
        before = p.detach().clone()
        one_step(opt, [p])
        assert torch.equal(p.detach(), before)
        assert float(opt.state[p]["lagmul"]) == 0
        assert float(opt.state[p]["cpr_step"]) == 2

    def test_defaults_to_1000(self):
        p = matrix(2, 2)
        for opt in (AdamCPR([p], kappa_init_method="warm_start"), SGDCPR([p], lr=0.1)):
            group = opt.param_groups[0]
            assert (group["kappa_init_method"], group["kappa_init_param"]) == ("warm_start", 1000)


class TestInflectionPoint:
    def make(self, p, every=2, decay=0.0, **kwargs):
        return still(p, kappa_init_method="inflection_point", reg_step_size=every, reg_ema_decay=decay, **kwargs)

    def test_first_falling_slope_sets_the_bound(self):
        p = matrix(4, 4)
        # samples at 0, 2, 4, 6, 8: 1, 2, 4, 7, 8 -> slopes 1, 2, 3, 1: falls at step 8
        r = [1.0, 9.0, 2.0, 9.0, 4.0, 9.0, 7.0, 9.0, 8.0, 8.0, 8.0]
        assert follow(self.make(p), p, r) == pytest.approx([math.inf] * 8 + [8.0] * 3, rel=1e-5)

    def test_a_later_fall_does_not_move_it(self):
        p = matrix(4, 4)
        r = [1.0, 3.0, 4.0, 6.0, 6.5, 6.0, 5.0]  # slopes 2, 1 (falls), 2, 0.5 (falls), ...
        assert follow(self.make(p, every=1), p, r) == pytest.approx([math.inf] * 2 + [4.0] * 5, rel=1e-5)

    def test_bound_is_the_raw_r_not_the_smoothed_one(self):
        p = matrix(4, 4)
        opt = self.make(p, every=1, decay=0.5)
        # EMA 1, 2, 2.5: slopes 1, 0.5 -> at step 2, where the raw R is 3
        assert follow(opt, p, [1.0, 3.0, 3.0]) == pytest.approx([math.inf, math.inf, 3.0], rel=1e-5)

    def test_smoothing_runs_every_step_not_only_at_samples(self):
        values = [1.0, 1.0, 2.0, 9.0, 3.0, 1.0, 5.0, 2.0, 6.0, 3.0, 6.5, 6.5, 6.6, 6.6]
        p = matrix(4, 4, dtype=torch.float64)
        seen = follow(self.make(p, every=2, decay=0.7), p, values)
        rule = algorithm1.Constraint(algorithm1.Settings(reg_step_size=2, reg_ema_decay=0.7))
        expected = []
        for r in values:
            rule._set_kappa(r)
            rule.t += 1
            expected.append(rule.kappa)
        assert math.isfinite(expected[-1]) and not math.isfinite(expected[3])
        assert seen == pytest.approx(expected)

    def test_needs_three_samples(self):
        p = matrix(4, 4)
        assert follow(self.make(p, every=1), p, [5.0, 4.0]) == [math.inf] * 2

    def test_constant_weights_have_no_inflection_point(self):
        p = matrix(4, 4)
        assert follow(self.make(p, every=1), p, [2.0] * 12) == [math.inf] * 12

    def test_ever_steeper_growth_is_never_bounded_and_says_so(self):
        p = matrix(4, 4)
        opt = self.make(p, every=1)
        assert set(follow(opt, p, [2.0**k for k in range(20)])) == {math.inf}
        (row,) = opt.constraints()
        assert not row.bounded and not row.active and row.kappa == math.inf

    def test_growth_that_flattens_is_bounded(self):
        p = matrix(4, 4)
        opt = self.make(p, every=1)
        follow(opt, p, [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0])
        assert kappa(opt, p) == pytest.approx(4.0, rel=1e-5)

    def test_a_large_tensor_is_free_until_then(self):
        """The authors mark "unset" by 1000 (or 1e6), an active bound for any tensor whose R is larger."""
        for r in (3212.0, 5e6):
            p = matrix(40, 40)
            opt = self.make(p, every=100)
            with torch.no_grad():
                p.fill_(math.sqrt(r / p.numel()))
            before = p.detach().clone()
            for _ in range(10):
                one_step(opt, [p])
            assert torch.equal(p.detach(), before)
            assert float(opt.state[p]["lagmul"]) == 0

    @pytest.mark.parametrize("reg", REGULARIZER_NAMES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_detected_under_every_regularizer_and_in_bfloat16(self, dtype, reg):
        p = matrix(16, 16, dtype=dtype)
        direction = p.detach().clone()
        opt = self.make(p, every=2, reg_function=reg)
        for factor in (1.0, 1.0, 1.2, 1.2, 2.0, 2.0, 2.1, 2.1):
            with torch.no_grad():
                p.copy_(direction * factor)
            if factor == 2.1 and not math.isfinite(kappa(opt, p)):
                expected = float(algorithm1.regularizer(reg, p.detach().double()))
            one_step(opt, [p])
        assert kappa(opt, p) == pytest.approx(expected, rel=1e-5)

    def test_foreach_and_single_tensor_paths_detect_at_the_same_step(self):
        runs = []
        for foreach in (True, False):
            p = matrix(4, 4)
            opt = self.make(p, every=3, decay=0.9, foreach=foreach)
            runs.append(follow(opt, p, [10 / (1 + math.exp(-0.4 * (k - 15))) for k in range(60)]))
        assert runs[0] == runs[1]
        assert math.isfinite(runs[0][-1])


def test_an_unset_bound_is_infinite_and_lambda_zero():
    for rule, param in (("warm_start", 5), ("inflection_point", None)):
        p = matrix(3, 3)
        opt = AdamCPR([p], kappa_init_method=rule, kappa_init_param=param)
        one_step(opt, [p])
        assert kappa(opt, p) == math.inf
        assert float(opt.state[p]["lagmul"]) == 0
