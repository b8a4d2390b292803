"""Random trainings for hypothesis: tensors, groups, settings, and what happens between the steps."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from optim_helpers import CLASSES, FUSED_SGD_LEAVES_OUT_HALF, round_trip

from nnunet_cpr.optim import CPR, cpr
from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS, STEP_FORMS

# Not NAdam: torch itself rounds its mu_product to the weights' dtype when a state is loaded.
TORCH_BASES = ("RAdam", "RMSprop", "Adagrad", "Adamax", "AdamW")
SHAPES = ((), (0,), (0, 3), (1,), (1, 1), (5,), (3, 4), (2, 3, 2), (4, 3, 2, 2), (2, 2, 3, 2, 2), (40, 33), (130, 65))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
EDITS = ("in_place", "load", "data", "replace", "numpy")


@dataclass(frozen=True)
class Layer:
    """A tensor of a model: its values are normal with this spread around this mean."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    mean: float
    spread: float
    same_layout_of_gradient: bool


@dataclass(frozen=True)
class Step:
    """A step and what comes before it."""

    without_gradient: frozenset[int] = frozenset()
    """Tensors, counted through all groups."""
    edit: tuple[str, float] | None = None
    """How all weights are changed outside the optimizer, and by which factor."""
    saved: bool = False
    """Saved and loaded into new objects."""
    omitted: bool = False
    """The optimizer does not step, as under GradScaler without fused."""
    vetoed: bool = False
    """GradScaler tells a fused step that gradients are not finite."""
    lr_factor: float = 1.0


@dataclass(frozen=True)
class Training:
    """A training, to be run with or without its saving and loading."""

    base: str
    options: dict[str, Any]
    groups: tuple[tuple[dict[str, Any], tuple[Layer, ...]], ...]
    steps: tuple[Step, ...]
    seed: int

    @property
    def layers(self) -> list[Layer]:
        """The tensors of all groups in order."""
        return [layer for _, layers in self.groups for layer in layers]

    @property
    def cls(self) -> type[CPR]:
        """The optimizer's class."""
        return CLASSES[self.base] if self.base in CLASSES else cpr(getattr(torch.optim, self.base))


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """Return the values in memory as `layout` says."""
    if layout == "channels_last" and values.ndim == 4:
        return values.to(memory_format=torch.channels_last)
    if layout == "channels_last" and values.ndim == 5:
        return values.to(memory_format=torch.channels_last_3d)
    if layout == "transposed":
        order = tuple(reversed(range(values.ndim)))
        return values.permute(order).contiguous().permute(order)
    if layout == "strided" and values.ndim:
        return torch.stack([values, values], dim=-1)[..., 0]
    return values.contiguous()


def new_parameter(values: torch.Tensor, layer: Layer) -> torch.nn.Parameter:
    """Return a parameter of its own memory."""
    return torch.nn.Parameter(laid_out(values.detach().clone(), layer.layout))


def initial(training: Training) -> list[torch.nn.Parameter]:
    """Return the weights before the first step."""
    g = torch.Generator().manual_seed(training.seed)
    draws = [layer.mean + layer.spread * torch.randn(layer.shape, generator=g) for layer in training.layers]
    pairs = zip(draws, training.layers, strict=True)
    return [new_parameter(values.to(layer.dtype), layer) for values, layer in pairs]


def gradients(training: Training, index: int) -> list[torch.Tensor | None]:
    """Return a step's gradients: noise around a fixed direction, of a size that differs between tensors."""
    result: list[torch.Tensor | None] = []
    for i, layer in enumerate(training.layers):
        fixed = torch.Generator().manual_seed(training.seed * 1000 + i)
        noise = torch.Generator().manual_seed((training.seed * 1000 + i) * 1000 + index)
        direction = torch.randn(layer.shape, generator=fixed)
        grad = (direction + 0.5 * torch.randn(layer.shape, generator=noise)).to(layer.dtype)
        layout = layer.layout if layer.same_layout_of_gradient else "contiguous"
        absent = i in training.steps[index].without_gradient
        result.append(None if absent else laid_out(grad, layout))
    return result


def build(training: Training, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a training."""
    left = iter(params)
    groups = [{"params": list(itertools.islice(left, len(layers))), **settings} for settings, layers in training.groups]
    return training.cls(groups, **training.options)


def rebuild(training: Training, params: list[Any], opt: Any) -> tuple[list[torch.nn.Parameter], Any]:
    """Return weights and optimizer as a new process has them that loads a checkpoint; settings come from the file."""
    weights = round_trip([p.detach() for p in params])
    fresh = [new_parameter(w, layer) for w, layer in zip(weights, training.layers, strict=True)]
    left = iter(fresh)
    groups = [{"params": list(itertools.islice(left, len(layers)))} for _, layers in training.groups]
    regularized = [{**group, "regularize": True} for group in groups]  # or it would warn that there is nothing to do
    # How a step is computed is not in the file but with the program.
    flags = {key: opt.defaults[key] for key in ("fused", "foreach") if key in opt.defaults}
    other = training.cls(regularized, **flags)
    other.load_state_dict(round_trip(opt.state_dict()))
    return fresh, other


def change(param: torch.nn.Parameter, layer: Layer, how: str, factor: float) -> None:
    """Multiply all weights of a tensor outside the optimizer."""
    new = factor * param.detach()
    if how == "in_place":
        with torch.no_grad():
            param.mul_(factor)
    elif how == "load":
        torch.nn.ParameterList([param]).load_state_dict({"0": new})
    elif how == "data":
        param.data.copy_(new)
    elif how == "replace":
        param.data = laid_out(new, layer.layout)
    elif how == "numpy" and param.dtype != torch.bfloat16:
        param.detach().numpy()[...] *= factor
    elif how == "numpy":
        param.detach().mul_(factor)


def veto(opt: Any, wanted: bool) -> None:
    """Tell a fused optimizer what GradScaler would; that there is nothing to tell means no GradScaler."""
    if wanted:
        opt.grad_scale, opt.found_inf = torch.ones(()), torch.ones(())
    elif hasattr(opt, "found_inf"):
        del opt.grad_scale, opt.found_inf


def layers(fused: bool, for_kernel: bool, half: bool) -> st.SearchStrategy[Layer]:
    layouts = ["contiguous", "contiguous", "channels_last", "transposed", "strided"]
    if for_kernel:
        layouts = ["contiguous", "contiguous"]
    return st.builds(
        Layer,
        shape=st.sampled_from(SHAPES),
        dtype=st.sampled_from(DTYPES if half else DTYPES[:2]),
        # torch's own fused steps on CPU go through memory, whatever the strides: without gaps, and gradients alike
        layout=st.sampled_from(layouts[:-1] if fused else layouts),
        mean=st.sampled_from([0.0, 0.0, 1.0, -30.0]),
        spread=st.sampled_from([0.3, 0.3, 3.0, 1e-3]),
        same_layout_of_gradient=st.just(True) if fused else st.booleans(),
    )


@st.composite
def settings_of_a_group(draw: Any, for_kernel: bool) -> dict[str, Any]:
    rule = RULES[draw(st.sampled_from(["dependent", *RULES]))]
    numbers = st.integers(0, 4) if rule.counts_steps else st.sampled_from([0.0, 0.2, 0.5, 0.9, 1])
    return {
        "lr": draw(st.sampled_from([1e-3, 0.02, 0.3])),
        "kappa_init_method": rule.name,
        "kappa_init_param": draw(numbers) if rule.parameter else None,
        "reg_function": draw(st.sampled_from(["l2"] if for_kernel else ["l2", *REGULARIZERS])),
        "kappa_update": draw(st.sampled_from([0.3, 1, 20.0, 0.01, 0.0])),
        "reg_step_size": draw(st.integers(1, 3)),
        "reg_ema_decay": draw(st.sampled_from([0, 0.5, 0.99])),
        "step_form": draw(st.sampled_from(list(STEP_FORMS))),
        "adaptive_bounds": draw(st.booleans()),
        "regularize": draw(st.sampled_from([True, True, True, None, False])),
    }


@st.composite
def options_of_a_base(draw: Any, base: str, for_kernel: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if base == "Adam":
        options |= {
            "betas": draw(st.sampled_from([(0.9, 0.999), (0.5, 0.6)])),
            "eps": draw(st.sampled_from([1e-8, 1e-3])),
        }
    if base == "SGD":
        momentum = draw(st.sampled_from([0.9] if for_kernel else [0.0, 0.9]))
        options |= {"momentum": momentum, "nesterov": draw(st.booleans()) if momentum else False}
    if base in ("Adam", "SGD"):
        options["maximize"] = draw(st.booleans())
    flags = ["plain", "foreach", "fused", "fused"] if base in ("Adam", "SGD") else ["plain", "foreach"]
    implementation = draw(st.sampled_from(["fused"] if for_kernel else flags))
    return options | ({implementation: True} if implementation != "plain" else {"foreach": False})


@st.composite
def trainings(draw: Any, for_kernel: bool) -> Training:
    """A random training of up to three groups, nine tensors and fifteen steps; with `for_kernel` the CPU kernel's."""
    base = draw(st.sampled_from(["Adam", "SGD"] * 2 + ([] if for_kernel else [*TORCH_BASES])))
    options = draw(options_of_a_base(base, for_kernel))
    count = draw(st.integers(1, 3))
    fused = options.get("fused", False)
    half = not (for_kernel or (fused and base == "SGD" and FUSED_SGD_LEAVES_OUT_HALF))
    some_layers = st.lists(layers(fused, for_kernel, half), min_size=1, max_size=3)
    groups = tuple((draw(settings_of_a_group(for_kernel)), tuple(draw(some_layers))) for _ in range(count))
    tensors = sum(len(some) for _, some in groups)
    absent = st.frozensets(st.integers(0, tensors - 1), max_size=tensors)
    rarely = st.integers(0, 7).map(lambda number: number == 7)
    edits = st.tuples(st.sampled_from(EDITS), st.sampled_from([0.5, 1.3, 3.0]))
    step = st.builds(
        Step,
        without_gradient=rarely.flatmap(lambda some: absent if some else st.just(frozenset())),
        edit=rarely.flatmap(lambda edited: edits if edited else st.none()),
        saved=rarely,
        omitted=rarely,
        vetoed=rarely if fused else st.just(False),
        lr_factor=st.sampled_from([1.0, 1.0, 0.5]),
    )
    steps = draw(st.lists(step, min_size=6, max_size=14))
    if base == "SGD" and fused:
        steps.insert(0, Step())  # torch's own fused SGD wants the first gradients of all tensors in the same step
    return Training(base, options, groups, tuple(steps), draw(st.integers(0, 999)))
