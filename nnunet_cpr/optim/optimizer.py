"""Constrained Parameter Regularization around any PyTorch optimizer (paper, Algorithm 1).

The optimizers' own updates do not look at the weights once weight decay is off. So Algorithm 1, which takes R and
grad R at the weights before the update, is: apply the constraint step to theta_t, then run the unchanged optimizer
step. Fused kernels, schedulers and everything else of the base class keep working.

Some optimizers of others do look again: they evaluate the closure themselves, use its loss, or differentiate the
gradients. For these the base step runs first and sees theta_t untouched; the constraint step follows, with R and grad R
of a copy of theta_t.
"""

import functools
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_cpr.optim.bounds import RULES, STATE_KEYS, start_values
from nnunet_cpr.optim.fused import c_backend, torch_backend, triton_backend
from nnunet_cpr.optim.fused.backend import Backend, TensorBatch, could_cover, local_parts
from nnunet_cpr.optim.fused.memory_layout import same
from nnunet_cpr.optim.grouping import param_groups
from nnunet_cpr.optim.reductions import accumulation_dtype, over_shards, times
from nnunet_cpr.optim.regularizers import L2, REGULARIZERS, Regularizer
from nnunet_cpr.optim.settings import check, complete, is_regularized, param_name
from nnunet_cpr.optim.stacked_state import Kind, StackedState, by_kind
from nnunet_cpr.optim.warm_start import in_warm_start


class Constraint(NamedTuple):
    """The constraint R(theta) <= kappa of one tensor, as it stands now."""

    name: str
    numel: int
    reg: float
    """R(theta) of the present weights."""
    kappa: float
    """The bound; inf while it is unset, for instance because no inflection point was found yet."""
    lagmul: float
    """The multiplier lambda of the last step; 0 where the constraint did not act."""
    flips: bool
    """The explicit step removes more than the whole weight and so flips signs (l2: 2 lambda > 1)."""

    @property
    def bounded(self) -> bool:
        """Whether the bound is set."""
        return self.kappa != float("inf")

    @property
    def active(self) -> bool:
        """Whether the constraint acted in the last step."""
        return self.lagmul > 0


class CPR(Optimizer):
    """Mixin that constrains the regularised tensors of the optimizer class after it; see :func:`cpr`.

    Args:
        params: a model (then :func:`param_groups` decides what is regularised), parameters, named parameters or groups.
            A group may hold any of the settings below for itself. The rest of the arguments is the base class's.
        kappa_init_method: how the bound kappa of a tensor is set: "inflection_point" (Kappa-IP), "warm_start"
            (Kappa-WS), "uniform" (Kappa-K) or "dependent" (Kappa-kI0).
        kappa_init_param: the unconstrained steps of a warm start (default 1000), the uniform bound, or the factor of
            the initial R. Unused by the inflection point.
        reg_function: R: "l2" (squared norm), "l1", "std" (standard deviation) or "huber".
        kappa_update: mu, the step size of lambda. Divided by a tensor's element count for l2, l1 and huber.
        reg_step_size: optimizer steps between two samples of R for the inflection point.
        reg_ema_decay: smoothing of R, once a step, for the inflection point.
        step_form: "explicit" (Algorithm 1) or "proximal" (the implicit step, which cannot flip signs or diverge).
        adaptive_bounds: lower kappa to R whenever lambda falls back to 0 (AdaCPR, paper, Appendix D).
        regularize: True or False for all tensors; None: tensors with two or more dimensions.

    State: besides the base class's, every regularised tensor holds `lagmul`, `kappa` and `cpr_step` (its own step
    count) as scalars in float32 (float64 for float64 weights). Settings live in the parameter groups. Both are in
    `state_dict`, which continues bit for bit. With sharded weights (DTensor) R is that of the whole tensor.

    Raises:
        ValueError: a setting has no meaning; a regularised group has weight decay; a model has nothing to regularise;
            a lazy layer has had no forward pass yet.
        ValueError, RuntimeError: (in `step`, before anything moves) a setting assigned to a group has no meaning; a
            regularised tensor has a sparse gradient.
    """

    _base: type[Optimizer] | None = None  # set on classes made by cpr(), which are not in any module's namespace
    _stepping: type[Optimizer] = Optimizer
    """The class whose step is the base optimizer's: the next one that had any when the class was made.

    torch.compile cannot look at what super() finds.
    """
    _constraint_first: bool = True
    """Whether the constraint step can always come first: the base step looks at nothing but the present gradients.

    True of torch's own, and of those that take no closure. Of others nobody knows, so they get the closure itself.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find the base optimizer of each class."""
        super().__init_subclass__(**kwargs)
        after = cls.__mro__[cls.__mro__.index(CPR) + 1 :]
        base: Any = next(c for c in after if "step" in vars(c))
        cls._stepping = base
        of_torch = f"{base.__module__}.".startswith("torch.optim.") and base is not torch.optim.LBFGS
        cls._constraint_first = of_torch or len(inspect.signature(base.step).parameters) < 2

    def __init__(
        self,
        params: Any,
        *args: Any,
        kappa_init_method: str = "inflection_point",
        kappa_init_param: float | None = None,
        reg_function: str = "l2",
        kappa_update: float = 1.0,
        reg_step_size: int = 200,
        reg_ema_decay: float = 0.99,
        step_form: str = "explicit",
        adaptive_bounds: bool = False,
        regularize: bool | None = None,
        **kwargs: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "kappa_init_method": kappa_init_method,
            "kappa_init_param": kappa_init_param,
            "reg_function": reg_function,
            "kappa_update": kappa_update,
            "reg_step_size": reg_step_size,
            "reg_ema_decay": reg_ema_decay,
            "step_form": step_form,
            "adaptive_bounds": adaptive_bounds,
            "regularize": regularize,
        }
        # AdamW's default is 1e-2. CPR stands in for it, so only a weight decay that the user asked for counts.
        signature = inspect.signature(super().__init__)
        if "weight_decay" in signature.parameters:
            given = signature.bind_partial(params, *args, **kwargs).arguments
            if "weight_decay" not in given:
                kwargs["weight_decay"] = 0
        from_model = isinstance(params, nn.Module)
        super().__init__(param_groups(params) if from_model else params, *args, **kwargs)
        self.defaults.update(settings)
        for group in self.param_groups:
            _complete(group, settings)
        if not any(is_regularized(group, p) for group in self.param_groups for p in group["params"]):
            message = f"{type(self).__name__} has nothing to regularise: no parameter is selected for it"
            if from_model:
                raise ValueError(message + "; print(param_table(model)) says why")
            warnings.warn(message + "; set regularize=True in a group, or pass the model", stacklevel=2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; CPR settings that it lacks are the optimizer's. A bad one raises ValueError and adds nothing.

        If some groups have names and others do not, parameters without one are called "param 7" after their key in
        `state_dict`.
        """
        groups = list(self.param_groups)
        newly_named = _name_alike(groups, param_group)
        try:
            super().add_param_group(param_group)
            # While the base class's __init__ adds its groups there are no settings yet; ours completes them then.
            if all(key in self.defaults for key in self._settings()):
                _complete(self.param_groups[-1], self.defaults)
        except (TypeError, ValueError):
            self.param_groups[:] = groups
            for group in newly_named:
                del group["param_names"]
            raise

    def step(self, closure: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Do one step: the closure (if any), the constraint at theta_t, then the base optimizer's step.

        An optimizer that is not torch's gets the closure itself. It evaluates it as often as it likes at the weights
        of its choice, and the constraint step comes last. `args` and `kwargs` are the base class's.
        """
        # torch wraps the step of each instantiated class to run hooks. Ours is wrapped already, so not the base's, too.
        base_step = self._stepping.step
        if getattr(base_step, "__code__", None) is _HOOKED:
            base_step = base_step.__wrapped__  # type: ignore[attr-defined]
        if not self._constraint_first and (closure is not None or self._gradients_have_a_graph()):
            return self._step_before_constraint(base_step, closure, args, kwargs)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        chosen = self._check()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            first_states, updated = self._constrain(chosen)
        groups = self._groups
        try:
            if updated:
                self.param_groups = [
                    {**group, "params": [p for p in group["params"] if id(p) not in updated]} for group in groups
                ]
            result = base_step(self, *args, **kwargs)
        finally:
            self.param_groups = groups
        # Only now: optimizers initialise their own state where they find none at all.
        for param, state in first_states:
            self.state[param].update(state)
        return result if closure is None else loss

    def constraints(self) -> list[Constraint]:
        """Return the constraint of every regularised tensor. Synchronises with the device; call it on all ranks."""
        rows = []
        number = itertools.count()
        for group in self.param_groups:
            regularizer = REGULARIZERS[group["reg_function"]]
            explicit = group["step_form"] == "explicit"
            for index, param in enumerate(group["params"]):
                name = param_name(group, index, next(number))
                if not is_regularized(group, param):
                    continue
                state = self.state.get(param, {})
                with torch.no_grad():
                    reg = regularizer.value([param])
                lagmul = float(state.get("lagmul", 0.0))
                share = regularizer.shrinkage(reg.new_tensor([lagmul]), reg, [param.numel()])
                rows.append(
                    Constraint(
                        name=name,
                        numel=param.numel(),
                        reg=reg.item(),
                        kappa=float(state.get("kappa", float("inf"))),
                        lagmul=lagmul,
                        flips=explicit and bool(share > 1),
                    )
                )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does, but CPR's scalars as copies: each is saved alone, not the vector it is in."""

        def alone(_: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
            return {**packed, "state": {key: _copied(state) for key, state in packed["state"].items()}}

        # First, so that hooks of the user see what is saved.
        handle = self.register_state_dict_post_hook(alone, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, CPR's settings included. One of the plain base optimizer loads too; CPR then starts afresh."""
        loaded: dict[str, Any] = {}

        def keep(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            ours = [{key: group[key] for key in self._settings()} for group in self.param_groups]
            # Names are of the parameters that are here. The saved ones may be of a model split into other parts.
            names = [{key: group[key] for key in ("param_names",) if key in group} for group in self.param_groups]
            saved = incoming["param_groups"]
            if len(ours) == len(saved):  # otherwise torch says what is wrong
                saved = [{**s, **group, **n} for s, group, n in zip(ours, saved, names, strict=True)]
            loaded.update(incoming, param_groups=saved)
            return loaded

        # Registered last, so it sees what hooks of the user made of the state.
        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch casts every state to its weights' dtype, which would round kappa and lambda of bf16 weights.
        keys = itertools.chain.from_iterable(group["params"] for group in loaded["param_groups"])
        params = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
        for key, param in zip(keys, params, strict=True):
            for name, value in loaded["state"].get(key, {}).items():
                if name in STATE_KEYS:
                    self.state[param][name] = torch.empty_like(
                        value, device=param.device, dtype=accumulation_dtype(param.dtype)
                    ).copy_(value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy optimizers whose class :func:`cpr` made by its base, which may be a user's own class."""
        base = type(self).__dict__.get("_base")
        return super().__reduce_ex__(protocol) if base is None else (_new, (base,), self.__getstate__())

    def _gradients_have_a_graph(self) -> bool:
        """Return whether gradients can be differentiated, which they cannot once a weight has moved."""
        gradients = [p.grad for group in self._groups for p in group["params"]]
        return any([gradient is not None and gradient.requires_grad for gradient in gradients])

    def _step_before_constraint(
        self,
        base_step: Callable[..., Any],
        closure: Callable[..., Any] | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run the base step at theta_t, then subtract the constraint step, which a copy of theta_t gives."""
        chosen = self._check()

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            nonlocal chosen
            with torch.enable_grad():
                loss = closure(*args, **kwargs)  # type: ignore[misc]
            chosen = self._check()
            return loss

        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            before = {p: p.clone() for group in self._groups for p in group["params"] if is_regularized(group, p)}
        result = base_step(self, *([] if closure is None else [evaluate]), *args, **kwargs)
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            for param, state in self._constrain(chosen, before)[0]:
                self.state[param].update(state)
        return result

    @staticmethod
    def _settings() -> Iterator[str]:
        parameters = inspect.signature(CPR.__init__).parameters.values()
        return (p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    def _check(self) -> list[list[Tensor]]:
        """Check before anything moves; return the tensors of each group that this step constrains."""
        chosen = []
        for number, group in enumerate(self._groups):
            # Settings of a live group may have been assigned to since the last step.
            if torch.compiler.is_compiling() or not same(self._kept.checked.get(number, ()), _to_check(group)):
                complete(group)
                check(group)
                self._kept.checked[number] = _to_check(group)
            regularize = group["regularize"]
            some = [
                p for p in group["params"] if (p.ndim >= 2 if regularize is None else regularize) and p.grad is not None
            ]
            chosen.append(some)
            if any([p.grad.layout is not torch.strided for p in some]):
                raise RuntimeError(
                    "a regularised tensor has a sparse gradient: CPR bounds whole tensors; "
                    "use dense gradients, or regularize=False for its group"
                )
        return chosen

    def _constrain(
        self, chosen: list[list[Tensor]], before: Mapping[Tensor, Tensor] | None = None
    ) -> tuple[list[tuple[Tensor, dict[str, Tensor]]], set[int]]:
        """Update kappa and lambda and apply the constraint step, at the weights `before` where these are given.

        Returns the states of tensors at their first step, and the ids of tensors that a kernel has given the base
        step, too.
        """
        updated: set[int] = set()
        first_states: list[tuple[Tensor, dict[str, Tensor]]] = []
        for number, (group, params) in enumerate(zip(self._groups, chosen, strict=True)):
            start = start_values(group)
            for kind, some in by_kind(params).items():
                states, first = [], []
                for param in some:
                    state = self.state.get(param)
                    if state is None or not start.keys() <= state.keys():
                        # All of the values are missing, or those of a rule changed to.
                        fresh = {
                            k: torch.full((), value, dtype=accumulation_dtype(param.dtype), device=param.device)
                            for k, value in start.items()
                        }
                        state = {**fresh, **(state or {})}
                        first.append((param, state))
                    states.append(state)
                at = None if before is None else [before[param] for param in some]
                done = self._constrain_some(some, at, states, group, self._kept.of(number, kind, self._groups))
                updated.update([id(some[index]) for index in done])
                first_states += [(param, {name: state[name] for name in start}) for param, state in first]
        return first_states, updated

    def _constrain_some(
        self,
        params: list[Tensor],
        at: list[Tensor] | None,
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        kept: StackedState,
    ) -> Iterable[int]:
        """Do lines 4 to 6 of Algorithm 1 for tensors alike, all multipliers and bounds at once, no host involved.

        R and grad R are those of the weights `at`, which are `params` if None.

        Returns the numbers of those that were given the base step, too.
        """
        regularizer = REGULARIZERS[group["reg_function"]]
        found_inf = getattr(self, "found_inf", None)
        update, gradients = _UPDATES.get(type(self), ""), [param.grad for param in params]
        work = TensorBatch(update, group, params, gradients, states, found_inf, getattr(self, "grad_scale", None))
        one_pass = None
        with torch.no_grad():
            old = kept.gather(states, start_values(group), params[0].device)
            # Not of sharded weights: if one rank's bounds were set by hand, the others would wait for its R forever.
            if found_inf is None and not hasattr(params[0], "device_mesh") and in_warm_start(old, group):
                kept.forget()
                kept.scatter(states, old, {"cpr_step": old["cpr_step"] + 1})
                return ()
            if could_cover(work):
                work = local_parts(work)
                one_pass = next((way for way in _ONE_PASS if way.covers(work, kept)), None)
            reg = over_shards(one_pass.value(work, kept), params) if one_pass else regularizer.value(at or params)
            new = {**old, **RULES[group["kappa_init_method"]](old["cpr_step"], reg, old, group)}
            new["lagmul"] = self._multipliers(regularizer, params, reg, old["lagmul"], new["kappa"], group)
            if group["adaptive_bounds"]:
                relaxed = (old["lagmul"] > 0) & (new["lagmul"] == 0)
                new["kappa"] = torch.where(relaxed, reg, new["kappa"])
            new["cpr_step"] = old["cpr_step"] + 1
            lagmul = new["lagmul"]
            # A fused step under GradScaler runs also when gradients are not finite, and finds out on the device.
            if found_inf is not None:
                skip = found_inf.to(reg.device) > 0
                new = {key: torch.where(skip, old[key], value) for key, value in new.items()}
                lagmul = torch.where(skip, 0, lagmul)
            kept.scatter(states, old, new)
            proximal = group["step_form"] == "proximal"
            if one_pass:
                return one_pass.step(work, kept, L2.factors(lagmul, proximal), new["kappa"])
        if not torch.compiler.is_compiling():
            kept.forget()
        regularizer.step(params, lagmul, proximal, at)
        return ()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """`param_groups`. Asked for these, torch.compile would look at all numbers in them, and compile for each lr."""
        groups: list[dict[str, Any]] | None = vars(self).get("param_groups")
        return self.param_groups if groups is None else groups  # a subclass may have made it a property

    @property
    def _kept(self) -> "_Kept":
        """What is kept between steps beside the state; copies and resumed optimizers begin without it."""
        if "_kept_between_steps" not in vars(self):
            self._kept_between_steps = _Kept()
        return self._kept_between_steps

    @staticmethod
    def _multipliers(
        regularizer: Regularizer,
        params: Sequence[Tensor],
        reg: Tensor,
        lagmul: Tensor,
        kappa: Tensor,
        group: dict[str, Any],
    ) -> Tensor:
        """Return lambda_{t+1} = max(0, lambda_t + mu / n (R - kappa)), with n = 1 for std."""
        rates = [group["kappa_update"] / (max(1, p.numel()) if regularizer.averaged else 1) for p in params]
        # While a bound is unset lambda stays 0, also if R overflows (inf - inf would be NaN).
        excess = torch.where(kappa == math.inf, 0, reg - kappa)
        return (lagmul + times(excess, rates)).clamp(min=0)


class AdamCPR(CPR, torch.optim.Adam):
    """Adam with CPR. By default l2 with Kappa-IP, as in the authors' package. See :class:`CPR` and torch.optim.Adam."""


class SGDCPR(CPR, torch.optim.SGD):
    """SGD with CPR. By default l2 with Kappa-WS at 1000 steps (the paper saw Kappa-IP fail here). See :class:`CPR`."""

    def __init__(self, params: Any, *args: Any, kappa_init_method: str = "warm_start", **kwargs: Any) -> None:
        super().__init__(params, *args, kappa_init_method=kappa_init_method, **kwargs)


_NAMED: dict[type[Optimizer], type[CPR]] = {torch.optim.Adam: AdamCPR, torch.optim.SGD: SGDCPR}
# Not subclasses of these two: their update may be another.
_UPDATES: dict[type[Optimizer], str] = {AdamCPR: "adam", SGDCPR: "sgd"}
# What does the constraint step and such an update in one pass over memory, the best first.
_ONE_PASS: tuple[Backend, ...] = (triton_backend, c_backend, torch_backend)
# Of all such wrappers. Their attribute `hooked` is also on a user's step that `functools.wraps` made look like Adam's.
_HOOKED = Optimizer.profile_hook_step(Optimizer.step).__code__
_CHECKED = ("weight_decay", *CPR._settings())


@functools.cache
def cpr(optimizer_class: type[Optimizer]) -> type[CPR]:
    """Return the class that adds CPR to `optimizer_class`, e.g. `cpr(torch.optim.NAdam)(model, lr=1e-3)`.

    Raises:
        TypeError: not an optimizer class, or LBFGS, which learns from how weights change between its own evaluations.
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"cpr() takes a torch.optim.Optimizer class, not {optimizer_class!r}")
    if issubclass(optimizer_class, CPR):
        return optimizer_class
    if optimizer_class in _NAMED:
        return _NAMED[optimizer_class]
    if issubclass(optimizer_class, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS does a line search by calling the closure and learns the curvature from one step to the next: "
            "the constraint would move the weights in between; use another optimizer"
        )
    name = f"{optimizer_class.__name__}CPR"
    doc = f"{optimizer_class.__name__} with CPR. See nnunet_cpr.optim.CPR for the arguments in addition."
    return type(name, (CPR, optimizer_class), {"__doc__": doc, "_base": optimizer_class})


def __getattr__(name: str) -> type[CPR]:
    """Find the class made of one of torch's optimizers by name, e.g. RMSpropCPR, as pickle looks for it."""
    base = getattr(torch.optim, name.removesuffix("CPR"), None)
    if not (name.endswith("CPR") and isinstance(base, type) and issubclass(base, Optimizer)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return cpr(base)  # type: ignore[arg-type]  # a class is hashable


def _new(base: type[Optimizer]) -> CPR:
    cls = cpr(base)  # type: ignore[arg-type]  # a class is hashable
    return cls.__new__(cls)


class _Kept:
    """What an optimizer keeps between steps beside its state."""

    def __init__(self) -> None:
        self.checked: dict[int, list[Any]] = {}
        """The objects that were checked, by group."""
        self.alike: dict[tuple[int, Kind], StackedState] = {}
        """By group and kind of tensor."""

    def of(self, number: int, kind: Kind, groups: Sequence[dict[str, Any]]) -> StackedState:
        """Return what is kept of tensors alike; with a kind that is new, drop those that a group no longer has."""
        if (number, kind) not in self.alike:
            here = {(index, its) for index, group in enumerate(groups) for its in by_kind(group["params"])}
            self.alike = {key: alike for key, alike in self.alike.items() if key in here}
            self.alike[number, kind] = StackedState()
        return self.alike[number, kind]


def _copied(state: Any) -> Any:
    """Return a tensor's state with copies of CPR's scalars; anything else that an optimizer may keep as it is."""
    if not isinstance(state, dict):
        return state
    return {name: value.clone() if name in STATE_KEYS else value for name, value in state.items()}


def _complete(group: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Give a group the settings that it lacks, and check them all."""
    for key in CPR._settings():
        group.setdefault(key, settings[key])
    complete(group)
    check(group)


def _name_alike(groups: Sequence[dict[str, Any]], added: dict[str, Any]) -> list[dict[str, Any]]:
    """Give names to a group to be added if the others have some, or to the others if it has; torch refuses a mixture.

    Without a name of its own a parameter is "param 7" after its key in `state_dict`, as in :func:`param_name`.

    Returns:
        The groups there before that were given names.
    """
    params = added.get("params") if isinstance(added, dict) else None
    if not groups or params is None or isinstance(params, set):
        return []  # torch says what is wrong
    params = added["params"] = [params] if isinstance(params, Tensor) else list(params)
    named = "param_names" in added or any(isinstance(param, tuple) for param in params)
    if named == ("param_names" in groups[0]):
        return []
    number = itertools.count()
    rows = [[f"param {next(number)}" for _ in group["params"]] for group in (*groups, added)]
    if not named:
        added["param_names"] = rows[-1]
        return []
    for group, names in zip(groups, rows, strict=False):
        group["param_names"] = names
    return list(groups)


def _to_check(group: dict[str, Any]) -> list[Any]:
    """Return what `check` looks at, as objects: numbers and strings that stay the same do so as objects."""
    return [*[group.get(key) for key in _CHECKED], *group["params"]]
