"""CPR as a mixin around any PyTorch optimizer (paper, Algorithm 1).

The optimizers' own updates do not look at the weights once weight decay is off. So Algorithm 1, which takes R and
grad R at the weights before the update, is: apply the constraint step to theta_t, then run the unchanged optimizer
step. Fused kernels, schedulers and everything else of the base class keep working.

Some optimizers from other libraries do look again: they evaluate the closure themselves, use its loss, or differentiate
the gradients. For these the base step runs first and sees theta_t untouched. The constraint step follows, with R and
grad R of a copy of theta_t.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_cpr.optim import checkpoint, fused
from nnunet_cpr.optim.algorithm import advance
from nnunet_cpr.optim.bounds import start_values
from nnunet_cpr.optim.constraints import Constraint, read_constraints
from nnunet_cpr.optim.fused.default import (
    apart_at_first_step,
    check_fused,
    fit_gradients,
    fit_states,
    fuse_by_default,
    is_of_torch,
    set_fused,
)
from nnunet_cpr.optim.grouping import param_groups
from nnunet_cpr.optim.param_names import match_names
from nnunet_cpr.optim.reductions import accumulation_dtype, over_shards
from nnunet_cpr.optim.regularizers import L2, REGULARIZERS
from nnunet_cpr.optim.settings import check, check_choice, check_muon, complete, is_regularized
from nnunet_cpr.optim.stacked_state import StackedState, StepCache, group_by_kind, same_objects
from nnunet_cpr.optim.warm_start import in_warm_start

FirstStates = list[tuple[Tensor, dict[str, Tensor]]]


class CPR(Optimizer):
    """Mixin that constrains the regularized tensors of the optimizer class after it; see `cpr`.

    Args:
        params: a model (then `param_groups` decides what is regularized), parameters, named parameters or groups.
            A group may hold any of the settings below for itself.
        args: the base class's positional arguments, the learning rate first.
        kappa_init_method: how the bound kappa of a tensor is set: a name in `bounds.RULES`, for instance
            "inflection_point" (Kappa-IP) or "warm_start" (Kappa-WS).
        kappa_init_param: the unconstrained steps of a warm start (default 1000), the uniform bound, or the factor of
            the initial R. Unused by the inflection point.
        reg_function: R: a name in `regularizers.REGULARIZERS`, for instance "l2" (the squared norm).
        kappa_update: mu, the step size of lambda. Divided by a tensor's element count for l2, l1 and huber.
        reg_step_size: optimizer steps between two samples of R for the inflection point.
        reg_ema_decay: smoothing of R, once per step, for the inflection point.
        step_form: "explicit" (Algorithm 1) or "proximal" (the implicit step, which cannot flip signs or diverge).
        adaptive_bounds: lower kappa to R whenever lambda falls back to 0 (AdaCPR, paper, Appendix D).
        regularize: True or False for all tensors; None: tensors with two or more dimensions.
        kwargs: the base class's keyword arguments. `fused` is on where torch can, unless `fused=False`, `foreach`
            or `differentiable=True` is given.

    State: besides the base class's, every regularized tensor holds `lagmul`, `kappa` and `cpr_step` (its own step
    count) as scalars in float32 (float64 for float64 weights). Settings live in the parameter groups. Both are in
    `state_dict`, which continues bit for bit. With sharded weights (DTensor) R is that of the whole tensor.

    Raises:
        ValueError: a setting has no meaning; a regularized group has weight decay; a model has nothing to regularize;
            a lazy layer has had no forward pass yet; a model for Muon has more than the matrices of hidden layers.
        ValueError, RuntimeError: (in `step`, before anything moves) a setting assigned to a group has no meaning; a
            regularized tensor has a sparse gradient.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import AdamCPR
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = AdamCPR(model, lr=1e-3, kappa_init_method="warm_start", kappa_init_param=1)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(1, 3)).sum().backward()
        ...     optimizer.step()
        >>> [(constraint.name, constraint.bounded) for constraint in optimizer.constraints()]
        [('weight', True)]
    """

    _stepping: type[Optimizer] = Optimizer
    """The class whose step is the base optimizer's: the next one that had any when the class was made.

    torch.compile cannot look at what super() finds.
    """
    _constraint_first: bool = True
    """Whether the constraint step can always come first: the base step looks at the present gradients only.

    That holds for torch's own optimizers and for those that take no closure. Others may do anything with a closure.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find the base optimizer of each class."""
        super().__init_subclass__(**kwargs)
        after = cls.__mro__[cls.__mro__.index(CPR) + 1 :]
        base: Any = next(c for c in after if "step" in vars(c))
        cls._stepping = base
        looks_once = is_of_torch(base) and base is not torch.optim.LBFGS
        cls._constraint_first = looks_once or len(inspect.signature(base.step).parameters) < 2

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
        if from_model:
            params = param_groups(params)
            check_muon(type(self), params)
        super().__init__(params, *args, **kwargs)
        self.defaults.update(settings)
        for group in self.param_groups:
            _fill_and_check(group, settings)
        fuse_by_default(self, self._stepping, self.param_groups)
        fused.check_switch([param for group in self.param_groups for param in group["params"]])
        check_choice(self, from_model)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; CPR settings that it lacks are the optimizer's. A bad one raises ValueError and adds nothing.

        If some groups have names and others do not, parameters without one are called "param 7" after their key in
        `state_dict`.
        """
        groups = list(self.param_groups)
        newly_named = match_names(groups, param_group)
        try:
            super().add_param_group(param_group)
            # While the base class's __init__ adds its groups there are no settings yet; ours completes them then.
            if all(key in self.defaults for key in self._settings()):
                _fill_and_check(self.param_groups[-1], self.defaults)
                fuse_by_default(self, self._stepping, self.param_groups[-1:])
        except (TypeError, ValueError):
            self.param_groups[:] = groups
            for group in newly_named:
                del group["param_names"]
            raise

    def step(self, closure: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Do one step: the closure (if any), the constraint at theta_t, then the base optimizer's step.

        Args:
            closure: evaluates the model and returns the loss. An optimizer that is not torch's gets it as it is: it may
                evaluate it as often as it likes at any weights, and the constraint step comes last.
            *args: the base class's other arguments.
            **kwargs: the base class's other arguments.

        Returns:
            The closure's loss, or what the base class's step returns.

        Raises:
            ValueError, RuntimeError: see `CPR`; nothing has moved then.
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
            first_states, updated, compiled = self._constrain(chosen)
        groups = self._groups
        try:
            if updated:
                self.param_groups = [
                    {**group, "params": [p for p in group["params"] if id(p) not in updated]} for group in groups
                ]
            elif compiled and self.defaults.get("fused", False) is None:
                # torch.compile fuses the loop itself, and calls torch's fused step as it is.
                self.param_groups = [{**group, "fused": None} for group in groups]
            if not compiled:
                whole = self.param_groups
                self.param_groups = [part for group in whole for part in apart_at_first_step(group, self.state)]
            result = base_step(self, *args, **kwargs)
        finally:
            self.param_groups = groups
        # Only now: optimizers initialize their own state where they find none at all.
        for param, state in first_states:
            self.state[param].update(state)
        return result if closure is None else loss

    def constraints(self) -> list[Constraint]:
        """Return the constraint of every regularized tensor that is not frozen (`requires_grad_(False)`).

        Reads values from the device, so it waits for it. With sharded weights call it on all ranks.
        """
        return read_constraints(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does, but CPR's scalars as copies: each is saved alone, not the vector it is in."""
        with checkpoint.scalars_alone(self):
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, CPR's settings included. One of the plain base optimizer loads too; CPR then starts afresh.

        Args:
            state_dict: what `state_dict` has returned. Names, `fused` and `foreach` stay this optimizer's own.
        """
        checkpoint.load(self, super().load_state_dict, state_dict, tuple(self._settings()))
        self._cache.layouts.clear()

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
        for index, group in enumerate(self._groups):
            # Settings of a live group may have been assigned to since the last step.
            if torch.compiler.is_compiling() or not same_objects(self._cache.checked.get(index, ()), _checked(group)):
                complete(group)
                check(group)
                self._cache.checked[index] = _checked(group)
            regularize = group["regularize"]
            with_gradient = [p for p in group["params"] if p.grad is not None]
            some = [p for p in with_gradient if (p.ndim >= 2 if regularize is None else regularize)]
            chosen.append(some)
            if any([p.grad.layout is not torch.strided for p in with_gradient]):
                if any([p.grad.layout is not torch.strided for p in some]):
                    raise RuntimeError(
                        "a regularized tensor has a sparse gradient: CPR bounds whole tensors; "
                        "use dense gradients, or regularize=False for its group"
                    )
                if self.defaults.get("fused", False) is None:
                    set_fused(self, None)  # torch's fused steps take no sparse gradients
            elif group.get("fused") and not torch.compiler.is_compiling():
                layouts = [(p.stride(), p.dtype, p.device) for p in group["params"]]
                if self._cache.layouts.get(index) != layouts:
                    self._cache.layouts[index] = layouts
                    check_fused(self, group)
                    fit_states(group["params"], self.state)
                fit_gradients(with_gradient)
        return chosen

    def _constrain(
        self, chosen: list[list[Tensor]], before: Mapping[Tensor, Tensor] | None = None
    ) -> tuple[FirstStates, set[int], bool]:
        """Update kappa and lambda and apply the constraint step, at the weights `before` where these are given.

        Returns:
            The states of tensors at their first step; the ids of tensors that a kernel has also given the base step;
            and whether this is compiled.
        """
        updated: set[int] = set()
        first_states: FirstStates = []
        for index, (group, params) in enumerate(zip(self._groups, chosen, strict=True)):
            start = start_values(group)
            for kind, some in group_by_kind(params).items():
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
                stacked = self._cache.stacked_state(index, kind, self._groups)
                done = self._constrain_kind(some, at, states, group, stacked)
                updated.update([id(some[i]) for i in done])
                first_states += [(param, {name: state[name] for name in start}) for param, state in first]
        return first_states, updated, torch.compiler.is_compiling()

    def _constrain_kind(
        self,
        params: list[Tensor],
        at: list[Tensor] | None,
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        stacked: StackedState,
    ) -> Sequence[int]:
        """Lines 4 to 6 of Algorithm 1 for one group of tensors, without synchronizing with the device.

        R and grad R are those of the weights `at`, by default of `params`.

        Returns:
            The indices of the tensors that a kernel has also given the base step.
        """
        regularizer = REGULARIZERS[group["reg_function"]]
        found_inf = getattr(self, "found_inf", None)
        with torch.no_grad():
            old = stacked.gather(states, start_values(group), params[0].device)
            # Not for sharded weights: if one rank's bounds were set by hand, the others would wait for its R forever.
            if found_inf is None and not hasattr(params[0], "device_mesh") and in_warm_start(old, group):
                stacked.forget()
                stacked.scatter(states, old, {"cpr_step": old["cpr_step"] + 1})
                return ()
            batch = fused.TensorBatch(
                update=_UPDATES.get(type(self), ""),
                group=group,
                params=params,
                gradients=[param.grad for param in params],
                states=states,
                found_inf=found_inf,
                grad_scale=getattr(self, "grad_scale", None),
            )
            kernels = None
            if fused.could_cover(batch):
                batch = fused.local_parts(batch)
                kernels = fused.find_backend(batch, stacked.caches)
            if kernels:
                backend, cache = kernels
                reg = over_shards(backend.squared_norms(batch, cache), params)
            else:
                reg = regularizer.value(at or params)
            new = advance(old, reg, regularizer.rates(group["kappa_update"], params), group)
            lagmul = new["lagmul"]
            # A fused step under GradScaler also runs when gradients are not finite, and finds out on the device.
            if found_inf is not None:
                skip = found_inf.to(reg.device) > 0
                new = {key: torch.where(skip, old[key], value) for key, value in new.items()}
                lagmul = torch.where(skip, 0, lagmul)
            stacked.scatter(states, old, new)
            proximal = group["step_form"] == "proximal"
            if kernels:
                return backend.shrink_and_update(batch, cache, L2.factors(lagmul, proximal), new["kappa"])
        if not torch.compiler.is_compiling():
            stacked.forget()
        regularizer.step(params, lagmul, proximal, at)
        return ()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """`param_groups`. Asked for these, torch.compile would look at all numbers in them, and compile for each lr."""
        groups: list[dict[str, Any]] | None = vars(self).get("param_groups")
        return self.param_groups if groups is None else groups  # a subclass may have made it a property

    @property
    def _cache(self) -> StepCache:
        if "_step_cache" not in vars(self):
            self._step_cache = StepCache()
        return self._step_cache


class AdamCPR(CPR, torch.optim.Adam):
    """Adam with CPR. By default l2 with Kappa-IP, as in the authors' package. See `CPR` and torch.optim.Adam.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import AdamCPR
        >>> optimizer = AdamCPR(torch.nn.Linear(3, 2), lr=1e-3, reg_step_size=100)
    """


class SGDCPR(CPR, torch.optim.SGD):
    """SGD with CPR. By default l2 with Kappa-WS at 1000 steps (the paper saw Kappa-IP fail here). See `CPR`.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import SGDCPR
        >>> optimizer = SGDCPR(torch.nn.Linear(3, 2), lr=0.01, momentum=0.99, nesterov=True)
    """

    def __init__(self, params: Any, *args: Any, kappa_init_method: str = "warm_start", **kwargs: Any) -> None:
        super().__init__(params, *args, kappa_init_method=kappa_init_method, **kwargs)


# Not for subclasses of these two: their update may be another.
_UPDATES: dict[type[Optimizer], str] = {AdamCPR: "adam", SGDCPR: "sgd"}
# The code of the wrappers that torch makes. A user's step made by `functools.wraps` has their attribute `hooked`, too.
_HOOKED = Optimizer.profile_hook_step(Optimizer.step).__code__
_CHECKED = ("weight_decay", *CPR._settings())


def _fill_and_check(group: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Give a group the settings that it lacks, and check them all."""
    for key in CPR._settings():
        group.setdefault(key, settings[key])
    complete(group)
    check(group)


def _checked(group: dict[str, Any]) -> list[Any]:
    """Return what `check` looks at, as objects: numbers and strings that stay the same do so as objects."""
    return [*[group.get(key) for key in _CHECKED], *group["params"]]
