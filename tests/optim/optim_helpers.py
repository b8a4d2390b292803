"""Small problems and bookkeeping that several test files share."""

import contextlib
import copy
import functools
import io
from pathlib import Path

import torch
from reference import algorithm1

from nnunet_cpr.optim import SGDCPR, AdamCPR, bounds, regularizers

REGULARIZER_NAMES = tuple(regularizers.REGULARIZERS)
STEP_FORMS = tuple(regularizers.STEP_FORMS)
SAMPLING = {"reg_step_size": 10, "reg_ema_decay": 0.8}


def settings_of(rule):
    """Settings of a rule that set a bound within 180 steps; `uniform` needs one that suits R, see `cpr_settings`."""
    parameter = 30 if rule.counts_steps else 1.2 if rule.parameter else None
    sampling = {key: value for key, value in SAMPLING.items() if key in rule.settings}
    return {"kappa_init_method": rule.name, "kappa_init_param": parameter, **sampling}


RULES = {name: settings_of(rule) for name, rule in bounds.RULES.items()}
CLASSES = {"Adam": AdamCPR, "SGD": SGDCPR}
BASE_KWARGS = {"Adam": {"lr": 0.02, "betas": (0.9, 0.99)}, "SGD": {"lr": 0.001, "momentum": 0.8}}
SHAPES = ((7, 5), (4, 3, 3, 3), (7,))
# What the kernels do: an active bound, and the options of the base that make a difference.
FUSED_BOUND = {"kappa_init_method": "dependent", "kappa_init_param": 0.8, "kappa_update": 0.3}
FUSED_OPTIONS = [
    ("Adam", {}),
    ("Adam", {"maximize": True, "eps": 1e-3, "betas": (0.5, 0.6)}),
    ("Adam", {"lr": torch.tensor(0.02)}),
    ("SGD", {}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"dampening": 0.5, "maximize": True}),
]


class Pull:
    """Gradients that pull weights to fixed targets with a smooth disturbance, from the weights and the step alone."""

    def __init__(self, shapes=SHAPES, seed=1, dtype=torch.float64, strength=1.0):
        g = torch.Generator().manual_seed(seed)
        self.start = [0.3 * torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]
        self.target = [2.0 * torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]
        self.phase = [6.0 * torch.rand(s, generator=g, dtype=torch.float64) for s in shapes]
        self.strength = strength

    def params(self, device="cpu"):
        return [torch.nn.Parameter(x.clone().to(device)) for x in self.start]

    def grads(self, weights, step):
        on_cpu = [w.detach().to("cpu", torch.float64) for w in weights]
        columns = zip(weights, on_cpu, self.target, self.phase, strict=True)
        return [
            (self.strength * (x - c) + 0.3 * torch.sin(ph + 0.37 * step)).to(w.device, w.dtype)
            for w, x, c, ph in columns
        ]

    def run(self, opt, params, start, stop, scale=1.0):
        """Do steps; the gradients are multiplied by `scale`."""
        for step in range(start, stop):
            for p, g in zip(params, self.grads(params, step), strict=True):
                p.grad = scale * g
            opt.step()


@functools.cache
def uniform_kappa(reg_function):
    """Twice the largest R that Pull's tensors start with: training carries all of them beyond it."""
    return 2 * max(float(algorithm1.regularizer(reg_function, theta)) for theta in Pull().start if theta.ndim > 1)


def cpr_settings(rule, reg_function="l2", **kwargs):
    """Settings of a rule under which Pull's tensors get bounded within 180 steps."""
    kappa = {"kappa_init_param": uniform_kappa(reg_function)} if rule == "uniform" else {}
    return {**RULES[rule], **kappa, "reg_function": reg_function, **kwargs}


def make(name, params, rule="warm_start", reg_function="l2", **kwargs):
    return CLASSES[name](params, **{**BASE_KWARGS[name], **cpr_settings(rule, reg_function, **kwargs)})


def make_fused(params, name="Adam", **options):
    settings = {**BASE_KWARGS[name], **FUSED_BOUND, "fused": True, **copy.deepcopy(options)}
    return CLASSES[name](params, **settings)


def round_trip(state_dict):
    """What torch.save and torch.load give back."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def as_ours(base, options):
    """The options with which torch's optimizer does the step that ours does by default."""
    chosen = {"fused", "foreach", "differentiable"} & options.keys()
    return (
        options
        if chosen or base not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        else {**options, "fused": True}
    )


@contextlib.contextmanager
def changed_default(value):
    """Change the dtype or the device of new tensors in a block."""
    is_dtype = isinstance(value, torch.dtype)
    change, before = (torch.set_default_dtype, torch.float32) if is_dtype else (torch.set_default_device, None)
    change(value)
    try:
        yield
    finally:
        change(before)


def set_zero_grads(params):
    for p in params:
        p.grad = torch.zeros_like(p)


def bits(tensors):
    return [t.detach().clone() for t in tensors]


def assert_same_bits(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        same = torch.equal(x, y) or bool(((x == y) | (x.isnan() & y.isnan())).all())
        assert same, f"differ by up to {(x.double() - y.double()).abs().max()}"


def matrix(*shape, dtype=torch.float32, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter((scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype))


def one_step(opt, params):
    set_zero_grads(params)
    opt.step()


def documented(page, heading):
    """The code blocks below a heading of a page in docs/, each as a string to be executed."""
    lines = (Path(__file__).parents[2] / "docs" / page).read_text().splitlines()
    start = lines.index(heading)
    stop = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("#")), len(lines))
    blocks = [[]]
    for line in lines[start + 1 : stop]:
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line:
            blocks.append([])
        else:
            blocks[-1].append("")
    return [code for code in ("\n".join(block).strip() for block in blocks) if code]
