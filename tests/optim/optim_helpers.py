"""Small problems and bookkeeping that several test files share."""

import contextlib
import copy
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import algorithm1
from torch import Tensor
from torch.optim import Optimizer

from nnunet_cpr.optim import SGDCPR, AdamCPR, bounds, regularizers

REGULARIZER_NAMES = tuple(regularizers.REGULARIZERS)
STEP_FORMS = tuple(regularizers.STEP_FORMS)
FUSED_SGD_LEAVES_OUT_HALF = torch.__version__ < "2.14"
"""On a CPU (pytorch issue 191763); ours then refuses `fused=True` and does not choose it."""
FSDP2_FAILS_ON_CPU = torch.__version__ < "2.7"
needs_fsdp2_on_cpu = pytest.mark.skipif(FSDP2_FAILS_ON_CPU, reason="torch 2.6's FSDP2 does not run on a CPU")
Params = Any
"""What an optimizer takes: tensors, groups of them, or a model."""
SAMPLING: dict[str, Any] = {"reg_step_size": 10, "reg_ema_decay": 0.8}


def settings_of(rule: bounds.BoundRule) -> dict[str, Any]:
    """Settings of a rule that set a bound within 180 steps; `uniform` needs one that suits R, see `cpr_settings`."""
    parameter = 30 if rule.counts_steps else 1.2 if rule.parameter else None
    sampling = {key: value for key, value in SAMPLING.items() if key in rule.settings}
    return {"kappa_init_method": rule.name, "kappa_init_param": parameter, **sampling}


RULES = {name: settings_of(rule) for name, rule in bounds.RULES.items()}
CLASSES: dict[str, type[AdamCPR] | type[SGDCPR]] = {"Adam": AdamCPR, "SGD": SGDCPR}
BASE_KWARGS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 0.02, "betas": (0.9, 0.99)}, "SGD": {"lr": 0.001, "momentum": 0.8}
}  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (4, 3, 3, 3), (7,))
# What the kernels do: an active bound, and the options of the base that make a difference.
FUSED_BOUND: dict[str, Any] = {"kappa_init_method": "dependent", "kappa_init_param": 0.8, "kappa_update": 0.3}
FUSED_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {}),
    ("Adam", {"maximize": True, "eps": 1e-3, "betas": (0.5, 0.6)}),
    ("Adam", {"lr": torch.tensor(0.02)}),
    ("SGD", {}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"dampening": 0.5, "maximize": True}),
]


class Pull:
    """Gradients that pull weights to fixed targets with a smooth disturbance, from the weights and the step alone."""

    def __init__(
        self, shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 1, dtype: torch.dtype = torch.float64,
        strength: float = 1.0,
    ) -> None:  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        self.start = [0.3 * torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]
        self.target = [2.0 * torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]
        self.phase = [6.0 * torch.rand(s, generator=g, dtype=torch.float64) for s in shapes]
        self.strength = strength

    def params(self, device: str = "cpu") -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(x.clone().to(device)) for x in self.start]

    def grads(self, weights: Sequence[Tensor], step: int) -> list[Tensor]:
        on_cpu = [w.detach().to("cpu", torch.float64) for w in weights]
        columns = zip(weights, on_cpu, self.target, self.phase, strict=True)
        return [
            (self.strength * (x - c) + 0.3 * torch.sin(ph + 0.37 * step)).to(w.device, w.dtype)
            for w, x, c, ph in columns
        ]

    def run(self, opt: Optimizer, params: Sequence[Tensor], start: int, stop: int, scale: float = 1.0) -> None:
        """Do steps; the gradients are multiplied by `scale`."""
        for step in range(start, stop):
            for p, g in zip(params, self.grads(params, step), strict=True):
                p.grad = scale * g
            opt.step()


@functools.cache
def uniform_kappa(reg_function: str) -> float:
    """Twice the largest R that Pull's tensors start with: training carries all of them beyond it."""
    return 2 * max(float(algorithm1.regularizer(reg_function, theta)) for theta in Pull().start if theta.ndim > 1)


def cpr_settings(rule: str, reg_function: str = "l2", **kwargs: Any) -> dict[str, Any]:
    """Settings of a rule under which Pull's tensors get bounded within 180 steps."""
    kappa = {"kappa_init_param": uniform_kappa(reg_function)} if rule == "uniform" else {}
    return {**RULES[rule], **kappa, "reg_function": reg_function, **kwargs}


def make(
    name: str, params: Params, rule: str = "warm_start", reg_function: str = "l2", **kwargs: Any
) -> AdamCPR | SGDCPR:
    return CLASSES[name](params, **{**BASE_KWARGS[name], **cpr_settings(rule, reg_function, **kwargs)})


def make_fused(params: Params, name: str = "Adam", **options: Any) -> AdamCPR | SGDCPR:
    settings = {**BASE_KWARGS[name], **FUSED_BOUND, "fused": True, **copy.deepcopy(options)}
    return CLASSES[name](params, **settings)


def round_trip(state_dict: Any) -> Any:
    """What torch.save and torch.load give back."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def as_ours(base: type[Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    """The options with which torch's optimizer does the step that ours does by default."""
    chosen = {"fused", "foreach", "differentiable"} & options.keys()
    return (
        options
        if chosen or base not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        else {**options, "fused": True}
    )


@contextlib.contextmanager
def changed_default(value: Any) -> Iterator[None]:
    """Change the dtype or the device of new tensors in a block."""
    is_dtype = isinstance(value, torch.dtype)
    change: Callable[[Any], None] = torch.set_default_dtype if is_dtype else torch.set_default_device
    before = torch.float32 if is_dtype else None
    change(value)
    try:
        yield
    finally:
        change(before)


def set_zero_grads(params: Iterable[Tensor]) -> None:
    for p in params:
        p.grad = torch.zeros_like(p)


def bits(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]


def assert_same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        same = torch.equal(x, y) or bool(((x == y) | (x.isnan() & y.isnan())).all())
        assert same, f"differ by up to {(x.double() - y.double()).abs().max()}"


def matrix(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0) -> torch.nn.Parameter:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter((scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype))


def one_step(opt: Optimizer, params: Iterable[Tensor]) -> None:
    set_zero_grads(params)
    opt.step()


def documented(page: str, heading: str) -> list[str]:
    """The code blocks below a heading of a page in docs/, each as a string to be executed."""
    lines = (Path(__file__).parents[2] / "docs" / page).read_text().splitlines()
    start = lines.index(heading)
    stop = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("#")), len(lines))
    blocks: list[list[str]] = [[]]
    for line in lines[start + 1 : stop]:
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line:
            blocks.append([])
        else:
            blocks[-1].append("")
    return [code for code in ("\n".join(block).strip() for block in blocks) if code]
