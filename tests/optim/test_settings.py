"""Settings live in the parameter groups; wrong ones are refused with one line that names them."""

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, RULES, STEP_FORMS, matrix, one_step
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR, cpr

KEYS = (
    "kappa_init_method",
    "kappa_init_param",
    "reg_function",
    "kappa_update",
    "reg_step_size",
    "reg_ema_decay",
    "step_form",
    "adaptive_bounds",
    "regularize",
)


def test_defaults_are_those_of_pytorch_cpr():
    group = AdamCPR([matrix(2, 2)]).param_groups[0]
    expected = ("inflection_point", None, "l2", 1.0, 200, 0.99, "explicit", False)
    assert tuple(group[k] for k in KEYS[:-1]) == expected
    assert SGDCPR([matrix(2, 2)], lr=0.1).param_groups[0]["kappa_init_method"] == "warm_start"


def test_all_settings_are_in_the_state_dict():
    opt = AdamCPR([matrix(2, 2)], reg_function="huber", kappa_update=0.5)
    (group,) = opt.state_dict()["param_groups"]
    assert set(KEYS) <= set(group)
    assert (group["reg_function"], group["kappa_update"]) == ("huber", 0.5)


def test_groups_may_differ_in_every_setting():
    a, b, c = (matrix(4, 4, seed=s, dtype=torch.float64) for s in range(3))
    r = [float((p.detach() ** 2).sum()) for p in (a, b, c)]
    opt = SGDCPR(
        [
            {"params": [a], "kappa_init_method": "uniform", "kappa_init_param": 1.0, "kappa_update": 0.1},
            {"params": [b], "kappa_init_method": "dependent", "kappa_init_param": 0.5, "reg_function": "l2"},
            {"params": [c], "reg_function": "std"},
        ],
        lr=0.0,
        kappa_update=0.3,
    )
    one_step(opt, [a, b, c])
    assert float(opt.state[a]["lagmul"]) == pytest.approx(0.1 * (r[0] - 1) / 16)
    assert float(opt.state[b]["lagmul"]) == pytest.approx(0.3 * 0.5 * r[1] / 16)
    assert opt.state[c]["kappa"] == float("inf")


def test_changing_a_group_during_training_is_honored():
    p = matrix(4, 4, dtype=torch.float64)
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=1.0)
    opt.param_groups[0]["kappa_update"] = 0.0
    one_step(opt, [p])
    assert float(opt.state[p]["lagmul"]) == 0
    opt.param_groups[0]["kappa_update"] = 2.0
    r = float((p.detach() ** 2).sum())
    one_step(opt, [p])
    assert float(opt.state[p]["lagmul"]) == pytest.approx(2 * (r - 1) / 16)


def test_each_dimensional_default():
    """regularize=None: two dimensions or more. True and False mean what they say."""
    for regularize, constrained in ((None, [False, True]), (True, [True, True]), (False, [False, False])):
        vector, weight = matrix(5), matrix(5, 5)
        opt = AdamCPR([{"params": [vector, weight], "regularize": regularize}, {"params": [matrix(2, 2)]}])
        one_step(opt, [vector, weight])
        assert ["lagmul" in opt.state[p] for p in (vector, weight)] == constrained


BAD = [
    ("kappa_init_method", "warmstart", RULES),
    ("reg_function", "l3", REGULARIZER_NAMES),
    ("step_form", "implicit", STEP_FORMS),
    ("kappa_update", -1.0, ()),
    ("kappa_update", float("nan"), ()),
    ("kappa_update", "fast", ()),
    ("kappa_init_method", None, ()),
    ("reg_step_size", 0, ()),
    ("reg_step_size", -5, ()),
    ("reg_step_size", 2.5, ()),
    ("reg_ema_decay", 1.5, ()),
    ("reg_ema_decay", -0.1, ()),
    ("adaptive_bounds", "yes", ()),
    ("regularize", "all", ()),
]


def assert_clear(info, argument, value, choices=()):
    text = str(info.value)
    assert "\n" not in text
    assert argument in text
    assert str(value) in text
    for choice in choices:
        assert choice in text


@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR])
@pytest.mark.parametrize("argument, value, choices", BAD)
def test_bad_arguments(cls, argument, value, choices):
    with pytest.raises(ValueError) as info:
        cls([matrix(2, 2)], lr=0.1, **{argument: value})
    assert_clear(info, argument, value, choices)


@pytest.mark.parametrize("argument, value, choices", BAD)
def test_bad_group_settings(argument, value, choices):
    with pytest.raises(ValueError) as info:
        AdamCPR([{"params": [matrix(2, 2)], argument: value}])
    assert_clear(info, argument, value, choices)


@pytest.mark.parametrize(
    "rule, value",
    [
        ("uniform", None),
        ("dependent", None),
        ("uniform", -1.0),
        ("dependent", -0.5),
        ("uniform", float("nan")),
        ("uniform", True),
        ("uniform", "1"),
        ("warm_start", -1),
        ("warm_start", 2.5),
        ("warm_start", True),
        ("warm_start", "10"),
    ],
)
def test_bad_kappa_init_param(rule, value):
    with pytest.raises(ValueError) as info:
        AdamCPR([matrix(2, 2)], kappa_init_method=rule, kappa_init_param=value)
    assert_clear(info, "kappa_init_param", value)


def test_a_group_that_needs_its_own_param():
    """The group's rule needs a number, the defaults have none."""
    with pytest.raises(ValueError, match="kappa_init_param"):
        AdamCPR([{"params": [matrix(2, 2)], "kappa_init_method": "uniform"}])


def test_base_arguments_keep_their_own_errors():
    with pytest.raises(ValueError, match="learning rate"):
        AdamCPR([matrix(2, 2)], lr=-1.0)


class TestWeightDecay:
    @pytest.mark.parametrize("cls", [AdamCPR, SGDCPR, cpr(torch.optim.AdamW)])
    def test_non_zero_is_refused_with_the_reason(self, cls):
        with pytest.raises(ValueError, match="weight_decay") as info:
            cls([matrix(2, 2)], lr=0.1, weight_decay=0.01)
        assert "0.01" in str(info.value) and "\n" not in str(info.value)

    def test_positional_too(self):
        with pytest.raises(ValueError, match="weight_decay"):
            AdamCPR([matrix(2, 2)], 1e-3, (0.9, 0.999), 1e-8, 0.01)

    def test_in_a_group(self):
        with pytest.raises(ValueError, match="weight_decay"):
            AdamCPR([{"params": [matrix(2, 2)], "weight_decay": 0.1}])

    def test_in_add_param_group_which_then_adds_nothing(self):
        opt = AdamCPR([matrix(2, 2)])
        with pytest.raises(ValueError, match="weight_decay"):
            opt.add_param_group({"params": [matrix(3, 3)], "weight_decay": 0.1})
        assert len(opt.param_groups) == 1
        opt.step()

    def test_set_later_is_refused_at_the_step(self):
        p = matrix(2, 2)
        opt = AdamCPR([p])
        one_step(opt, [p])
        opt.param_groups[0]["weight_decay"] = 0.1
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        with pytest.raises(ValueError, match="weight_decay"):
            opt.step()
        assert torch.equal(p.detach(), before)

    def test_zero_is_accepted(self):
        for zero in (0, 0.0):
            assert AdamCPR([matrix(2, 2)], weight_decay=zero).param_groups[0]["weight_decay"] == 0

    def test_allowed_on_a_group_that_is_not_regularized(self):
        w, b = matrix(2, 2), matrix(2)
        groups = [{"params": [w]}, {"params": [b], "regularize": False, "weight_decay": 0.1}]
        ours, plain = AdamCPR(groups, lr=0.1), matrix(2)
        base = torch.optim.Adam([plain], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            one_step(ours, [w, b])
            one_step(base, [plain])
        assert torch.equal(b.detach(), plain.detach())

    def test_a_group_with_only_weight_decay_zero_is_still_constrained(self):
        """timm's and Lightning's groups; the authors' package silently does nothing with them."""
        p = matrix(4, 4)
        opt = AdamCPR([{"params": [p], "weight_decay": 0.0}], kappa_init_method="dependent", kappa_init_param=0.5)
        one_step(opt, [p])
        assert opt.state[p]["lagmul"] > 0

    def test_adamw_of_cpr_has_none_by_default(self):
        assert cpr(torch.optim.AdamW)([matrix(2, 2)]).param_groups[0]["weight_decay"] == 0


class TestNothingToRegularize:
    def test_a_model_is_an_error(self):
        for model in (nn.LayerNorm(8), nn.Embedding(5, 4)):
            with pytest.raises(ValueError, match="regulari") as info:
                AdamCPR(model)
            assert "\n" not in str(info.value)

    def test_bare_parameters_are_a_warning(self):
        with pytest.warns(UserWarning, match="regulari"):
            AdamCPR([matrix(5)])

    def test_a_normal_list_does_not_warn(self, recwarn):
        AdamCPR([matrix(5), matrix(2, 2)])
        AdamCPR(nn.Linear(3, 3))
        assert not recwarn.list


class TestChangesToALiveGroup:
    @pytest.mark.parametrize(
        "key, value, message",
        [
            ("kappa_init_method", "warmstart", f"must be one of {', '.join(RULES)}"),
            ("reg_function", "L2", f"must be one of {', '.join(REGULARIZER_NAMES)}"),
            ("kappa_update", -1.0, "kappa_update is -1.0, but must be a number of at least 0"),
            ("kappa_init_param", -5, "kappa_init_param is -5"),
            ("step_form", None, f"must be one of {', '.join(STEP_FORMS)}"),
        ],
    )
    def test_a_bad_one_is_refused_before_anything_moves(self, key, value, message):
        a, b = matrix(3, 3), matrix(3, 3, seed=1)
        opt = SGDCPR([{"params": [a]}, {"params": [b]}], lr=0.1, kappa_init_method="uniform", kappa_init_param=0.1)
        one_step(opt, [a, b])
        before = [p.detach().clone() for p in (a, b)]
        opt.param_groups[1][key] = value
        with pytest.raises(ValueError, match=message) as caught:
            one_step(opt, [a, b])
        assert "\n" not in str(caught.value)
        assert torch.equal(a, before[0]) and torch.equal(b, before[1])

    @pytest.mark.parametrize("fused", [False, True])
    def test_to_the_inflection_point_starts_its_samples_then(self, fused):
        """As a fresh optimizer would from there, but for what the old rule has already set."""
        p, twin = matrix(4, 4), matrix(4, 4)
        settings = {"reg_step_size": 5, "reg_ema_decay": 0.5, "lr": 0.1, "fused": fused}
        opt = SGDCPR([p], kappa_init_method="warm_start", kappa_init_param=1000, **settings)
        fresh = SGDCPR([twin], kappa_init_method="inflection_point", **settings)
        for _ in range(10):
            one_step(opt, [p])
        opt.param_groups[0]["kappa_init_method"] = "inflection_point"
        sizes = [1.0, 1.1, 1.3, 1.6, 1.7, 1.72, 1.73]
        for size in (s for s in sizes for _ in range(5)):
            for weights, each in ((p, opt), (twin, fresh)):
                with torch.no_grad():
                    weights.copy_(matrix(4, 4) * size)
                one_step(each, [weights])
        kappa = opt.state[p]["kappa"]
        assert torch.isfinite(kappa) and kappa == fresh.state[twin]["kappa"]


def test_numpys_numbers_are_numbers_and_saved_as_pythons():
    numpy = pytest.importorskip("numpy")
    opt = AdamCPR(
        [matrix(2, 2)],
        kappa_init_method="warm_start",
        kappa_init_param=numpy.int64(5),
        kappa_update=numpy.float32(0.5),
        reg_ema_decay=numpy.float64(0.5),
    )
    group = opt.state_dict()["param_groups"][0]
    assert [type(group[key]) for key in ("kappa_init_param", "kappa_update", "reg_ema_decay")] == [int, float, float]
    assert (group["kappa_init_param"], group["kappa_update"]) == (5, 0.5)
    opt.param_groups[0]["kappa_update"] = numpy.float32(0.25)
    one_step(opt, opt.param_groups[0]["params"])
    assert type(opt.param_groups[0]["kappa_update"]) is float
