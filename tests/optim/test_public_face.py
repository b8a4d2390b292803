"""What the classes accept, what `cpr` makes, and what they call themselves."""

import copy
import inspect
import pickle
import subprocess
import sys

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES, RULES, STEP_FORMS, as_ours, documented, matrix, one_step, set_zero_grads
from torch import nn

import nnunet_cpr.optim
from nnunet_cpr.optim import CPR, SGDCPR, AdamCPR, cpr, param_groups

BASES = [
    (torch.optim.Adadelta, {}),
    (torch.optim.Adafactor, {}),
    (torch.optim.Adagrad, {}),
    (torch.optim.Adam, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.AdamW, {}),
    (torch.optim.ASGD, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.RAdam, {}),
    (torch.optim.RMSprop, {}),
    (torch.optim.Rprop, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
]


class Signed(torch.optim.Optimizer):
    """A user's own optimizer."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())
        return loss


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def constrained(opt):
    return [row.name for row in opt.constraints()]


def test_a_model():
    model = net()
    opt = AdamCPR(model, lr=1e-3)
    assert sum(len(g["params"]) for g in opt.param_groups) == len(list(model.parameters()))
    set_zero_grads(model.parameters())
    opt.step()
    assert sorted(constrained(opt)) == ["0.weight", "2.weight"]


def test_parameters_named_parameters_and_groups_are_all_constrained():
    model = net()
    weights = [model[0].weight, model[2].weight]
    for given in (
        model.parameters(),
        list(model.parameters()),
        model.named_parameters(),
        [{"params": model.parameters()}],
        [{"params": list(model.named_parameters())}],
        param_groups(model),
    ):
        opt = AdamCPR(given, lr=1e-3, kappa_init_method="dependent", kappa_init_param=0.9)
        set_zero_grads(model.parameters())
        opt.step()
        assert all(opt.state[w]["lagmul"] > 0 for w in weights)
        assert not any("lagmul" in opt.state[p] for p in model.parameters() if p.ndim < 2)


def test_names_are_reported_where_they_were_given():
    model = net()
    for given in (model, model.named_parameters(), param_groups(model)):
        opt = AdamCPR(given)
        set_zero_grads(model.parameters())
        opt.step()
        assert sorted(constrained(opt)) == ["0.weight", "2.weight"]


def test_names_of_bare_parameters_are_distinct():
    opt = AdamCPR([matrix(2, 2), matrix(3, 3)])
    opt.add_param_group({"params": [matrix(4, 4)]})
    one_step(opt, [p for g in opt.param_groups for p in g["params"]])
    assert len(set(constrained(opt))) == 3


def test_errors_of_torch_stay():
    with pytest.raises(TypeError):
        AdamCPR(matrix(2, 2))
    with pytest.raises(ValueError):
        AdamCPR([])


@pytest.mark.parametrize("base, kwargs", BASES, ids=lambda b: getattr(b, "__name__", ""))
def test_any_torch_optimizer_equals_itself_while_unbounded(base, kwargs):
    ours, plain = matrix(6, 5), matrix(6, 5)
    opt = cpr(base)([ours], lr=0.01, kappa_init_method="warm_start", kappa_init_param=100, **kwargs)
    decay = {"weight_decay": 0} if base is torch.optim.AdamW else {}
    other = base([plain], lr=0.01, **decay, **as_ours(base, kwargs))
    for step in range(20):
        for p in (ours, plain):
            p.grad = torch.cos(p.detach() * 3 + step)
        opt.step()
        other.step()
    assert torch.equal(ours.detach(), plain.detach())


@pytest.mark.parametrize("base, kwargs", BASES, ids=lambda b: getattr(b, "__name__", ""))
def test_any_torch_optimizer_is_constrained(base, kwargs):
    p = matrix(8, 8)
    theta = p.detach().clone()
    opt = cpr(base)([p], lr=0.01, kappa_init_method="dependent", kappa_init_param=0.5, kappa_update=0.1, **kwargs)
    one_step(opt, [p])
    lam = float(opt.state[p]["lagmul"])
    assert lam > 0
    torch.testing.assert_close(p.detach(), theta * (1 - 2 * lam), rtol=1e-4, atol=0)  # ASGD itself decays by 1e-6


def test_a_users_own_optimizer():
    cls = cpr(Signed)
    p = matrix(8, 8)
    opt = cls([p], lr=0.01, kappa_init_method="uniform", kappa_init_param=1.0)
    for _ in range(50):
        p.grad = -torch.ones_like(p)
        opt.step()
    assert opt.state[p]["lagmul"] > 0
    again = pickle.loads(pickle.dumps(opt))
    assert type(again) is cls


def test_cpr_is_cached_and_named():
    assert cpr(torch.optim.RMSprop) is cpr(torch.optim.RMSprop)
    assert cpr(torch.optim.RMSprop).__name__ == "RMSpropCPR"
    assert issubclass(cpr(torch.optim.RMSprop), torch.optim.RMSprop)
    assert cpr(torch.optim.Adam) is AdamCPR
    assert cpr(torch.optim.SGD) is SGDCPR


def test_lbfgs_is_refused_with_the_reason():
    with pytest.raises(TypeError, match="closure"):
        cpr(torch.optim.LBFGS)


@pytest.mark.parametrize("wrong", [torch.nn.Linear, 3, "Adam", None])
def test_other_things_are_refused(wrong):
    with pytest.raises(TypeError):
        cpr(wrong)


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_classes_pickle(base):
    assert pickle.loads(pickle.dumps(cpr(base))) is cpr(base)
    assert copy.deepcopy(cpr(base)) is cpr(base)


def test_an_optimizer_unpickles_in_a_process_that_never_called_cpr(tmp_path):
    p = matrix(2, 2)
    opt = cpr(torch.optim.RMSprop)([p], lr=0.01, kappa_init_method="dependent", kappa_init_param=0.5)
    one_step(opt, [p])
    file = tmp_path / "opt.pkl"
    file.write_bytes(pickle.dumps(opt))
    code = (
        "import pickle, sys; opt = pickle.load(open(sys.argv[1], 'rb')); "
        "[row] = opt.constraints(); print(type(opt).__name__, row.active); opt.step()"
    )
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["RMSpropCPR", "True"], done.stderr


def test_the_signature_shows_the_settings_and_the_base_arguments():
    """help() and editors see real names; the ones of pytorch-cpr are kept."""
    names = set(inspect.signature(AdamCPR).parameters)
    assert {"kappa_init_method", "kappa_init_param", "reg_function", "kappa_update", "reg_step_size"} <= names


def test_a_misspelled_argument_is_an_error():
    with pytest.raises(TypeError):
        AdamCPR([matrix(2, 2)], kappa_init_methods="uniform")


def test_isinstance_and_subclassing():
    class Mine(AdamCPR):
        def step(self, closure=None):
            self.seen = getattr(self, "seen", 0) + 1
            return super().step(closure)

    p = matrix(2, 2)
    opt = Mine([p], kappa_init_method="dependent", kappa_init_param=0.5)
    one_step(opt, [p])
    assert isinstance(opt, torch.optim.Adam)
    assert opt.seen == 1
    assert int(opt.state[p]["cpr_step"]) == 1


def test_repr_and_profiler_name():
    opt = AdamCPR([matrix(2, 2)])
    assert repr(opt).startswith("AdamCPR")
    assert "kappa_init_method: inflection_point" in repr(opt)


@pytest.mark.parametrize(
    "heading",
    [
        "# CPR in a PyTorch loop of your own",
        "## See what is regularized",
        "## Watch the constraints",
        "## Any other optimizer",
    ],
)
def test_the_examples_of_the_documentation(heading, capsys):
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 2))
    space = {"torch": torch, "model": model, "AdamCPR": AdamCPR, "optimizer": AdamCPR(model, lr=1e-3)}
    for code in documented("how-to/pytorch-loop.md", heading):
        exec(code, space)
    assert isinstance(space["optimizer"], CPR)
    printed = capsys.readouterr().out
    if heading.startswith("## See"):
        assert "embedding: Embedding" in printed
        assert [c.name for c in space["optimizer"].constraints()] == ["0.weight", "1.weight"]
        assert space["optimizer"].param_groups[0]["kappa_update"] == 0.1
    if heading.startswith("## Watch"):
        assert printed.startswith("1.weight ")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_names_of_settings_are_there_without_torch():
    code = (
        "import sys, nnunet_cpr.optim; from nnunet_cpr.optim import bounds, regularizers;"
        "print(*bounds.RULES, *regularizers.REGULARIZERS, *regularizers.STEP_FORMS, 'torch' in sys.modules)"
    )
    assert run_python(code) == [*RULES, *REGULARIZER_NAMES, *STEP_FORMS, "False"]


@pytest.mark.parametrize(
    "first", ["pass", "import nnunet_cpr.optim.optimizer", "import nnunet_cpr.optim.grouping", "import torch"]
)
def test_the_public_names_are_what_they_are_whatever_is_imported_first(first):
    code = (
        f"{first}; import nnunet_cpr.optim as face; listed = set(face.__all__) <= set(dir(face));"
        "from nnunet_cpr.optim import *; print(listed, AdamCPR.__name__, Constraint.__name__, param_groups.__name__,"
        "type(param_groups).__name__, param_table.__name__, cpr.__name__)"
    )
    expected = ["True", "AdamCPR", "Constraint", "param_groups", "function", "param_table", "cpr"]
    assert run_python(code) == expected


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match=r"module 'nnunet_cpr.optim' has no attribute 'RMSprop'"):
        nnunet_cpr.optim.RMSprop  # noqa: B018
