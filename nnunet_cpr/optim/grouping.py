"""Which parameters of a model are regularized, by the types of the modules that own them, and the table of it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_WEIGHTS = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


class _Decision(NamedTuple):
    name: str
    param: Tensor
    regularize: bool
    reason: str


class _Part(NamedTuple):
    owner: nn.Module
    """The module whose type decides."""
    role: str
    """What the owner calls it."""
    whole: str
    """The name in the model of what it is a part of."""
    magnitude: bool
    """It holds the lengths of weight_norm's rows."""


def param_groups(model: nn.Module, *, reg_embedding: bool = False) -> list[dict[str, Any]]:
    """Return the groups of a model for a CPR optimizer: the regularized parameters and the others, each exactly once.

    Not regularized are biases, the weights of all normalization layers, vectors (layer scales, class tokens), position
    tokens, embeddings unless `reg_embedding`, and what the model exempts itself: parameters with the attribute
    `_no_weight_decay`, and names in a `no_weight_decay()` of the model or one of its modules (timm). A shared parameter
    counts once, and is regularized only if all its owners say so. `torch.compile` and DDP wrappers make no difference.
    What stands for a parametrized weight (weight_norm, spectral_norm, orthogonal, pruning, your own) is treated as that
    weight is, but for vectors and for the magnitudes of weight_norm, one number a row, which are not regularized.

    Frozen parameters (`requires_grad=False`) are in the groups like others. Steps leave them alone, as they have no
    gradient; once unfrozen they are bounded, with a warm start of their own.

    Args:
        model: any module, wrapped or not.
        reg_embedding: whether embeddings are regularized, too.

    Returns:
        Up to two groups {"params": [(name, parameter), ...], "regularize": bool}; an empty one is left out.

    Raises:
        ValueError: the model has no parameter to regularize, or a lazy one that has no shape yet.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import param_groups
        >>> groups = param_groups(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)))
        >>> [(group["regularize"], [name for name, _ in group["params"]]) for group in groups]
        [(True, ['0.weight']), (False, ['0.bias', '1.weight', '1.bias'])]
    """
    decisions = list(_decide(model, reg_embedding))
    if not any(decision.regularize for decision in decisions):
        raise ValueError(
            f"{type(model).__name__} has no parameter to regularize: CPR leaves out biases, normalization weights, "
            "vectors and embeddings; use the plain optimizer, or groups with regularize=True"
        )
    groups = []
    for regularize in (True, False):
        params = [(d.name, d.param) for d in decisions if d.regularize is regularize]
        if params:
            groups.append({"params": params, "regularize": regularize})
    return groups


def param_table(model: nn.Module, *, reg_embedding: bool = False) -> str:
    """Return a table to print: every parameter of the model, its shape, whether CPR regularizes it, and why.

    Frozen parameters are marked: CPR bounds those that it regularizes once they are unfrozen.

    Args:
        model: any module, wrapped or not.
        reg_embedding: whether embeddings are regularized, too.

    Raises:
        ValueError: a lazy parameter has no shape yet.

    Examples:
        >>> import torch
        >>> from nnunet_cpr.optim import param_table
        >>> print(param_table(torch.nn.Linear(3, 2)).splitlines()[-1])
        1 of 2 tensors, 6 of 8 elements are regularized
    """
    decisions = list(_decide(model, reg_embedding))
    rows = [
        (d.name, "x".join(map(str, d.param.shape)) or "scalar", "yes" if d.regularize else "no", _marked(d))
        for d in decisions
    ]
    rows.insert(0, ("parameter", "shape", "regularized", "because"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    tensors = [d.param for d in decisions if d.regularize]
    elements, total = sum(t.numel() for t in tensors), sum(d.param.numel() for d in decisions)
    lines.append(f"{len(tensors)} of {len(decisions)} tensors, {elements:,} of {total:,} elements are regularized")
    frozen = [t for t in tensors if not t.requires_grad]
    if frozen:
        lines[-1] += (
            f"; {len(frozen)} of these tensors, {sum(t.numel() for t in frozen):,} elements, are frozen: "
            "no bound until they are unfrozen"
        )
    return "\n".join(lines)


def _marked(decision: _Decision) -> str:
    """Return the reason of a decision, and that the parameter is frozen if it is."""
    return decision.reason if decision.param.requires_grad else f"{decision.reason}, frozen"


def _decide(model: nn.Module, reg_embedding: bool) -> Iterator[_Decision]:
    while isinstance(inner := getattr(model, "_orig_mod", None) or _data_parallel_module(model), nn.Module):
        model = inner
    verdicts: dict[Tensor, list[tuple[str, bool, str]]] = {}
    stands_for: dict[Tensor, set[str]] = {}
    exempt: set[str] = set()
    # Shared modules are visited once per name, so that an exemption counts by whichever name it is given.
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = _clean(path + "." if path else "")
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            exempt |= {prefix + name for name in listed()}
        for attribute, param in module.named_parameters(recurse=False, remove_duplicate=False):
            if is_lazy(param):
                raise ValueError(
                    f"{prefix}{attribute} of {type(module).__name__} has no shape before the first forward pass: "
                    "run the model on one batch, then make the optimizer"
                )
            part = _part_of(model, path, module, attribute)
            regularize, reason = _verdict(part.owner, part.role, part.magnitude, param, reg_embedding)
            verdicts.setdefault(param, []).append((prefix + attribute, regularize, reason))
            stands_for.setdefault(param, set()).update((prefix + attribute, _clean(part.whole)))
    for param, owners in verdicts.items():
        name, regularize, reason = next((owner for owner in owners if not owner[1]), owners[0])
        if stands_for[param] & exempt:
            regularize, reason = False, "in the model's no_weight_decay()"
        elif getattr(param, "_no_weight_decay", False):
            regularize, reason = False, "marked _no_weight_decay"
        elif len(owners) > 1 and name != owners[0][0]:
            reason += f" (shared with {name})"
        yield _Decision(owners[0][0], param, regularize, reason)


def _part_of(model: nn.Module, path: str, module: nn.Module, attribute: str) -> _Part:
    """Return what a parameter is a part of: usually it is whole, and its module owns it."""
    known = isinstance(module, (*_NORMS, *_EMBEDDINGS, *_WEIGHTS))
    before, inside, after = path.rpartition("parametrizations.")
    if inside and not known and before[-1:] in ("", "."):
        # `m.parametrizations.weight.original` stands for the weight of m, as `original0`, ... do together, and as what
        # a parametrization holds of its own does: `m.parametrizations.weight.0.lora_A`.
        owner_path, role = before.removesuffix("."), after.partition(".")[0]
        owner = model.get_submodule(owner_path)
        if isinstance(getattr(owner, "parametrizations", None), nn.ModuleDict):
            first = module[0] if isinstance(module, ParametrizationList) else None
            magnitude = isinstance(first, _WeightNorm) and attribute == "original0"
            return _Part(owner, role, f"{owner_path}.{role}".removeprefix("."), magnitude)
    # torch's older forms leave a tensor called `weight` beside weight_g and weight_v (weight_norm) or weight_orig
    # (spectral_norm, pruning).
    stem, _, suffix = attribute.rpartition("_")
    older = suffix in ("g", "v", "orig") and isinstance(getattr(module, stem, None), Tensor)
    whole = f"{path}.{stem if older else attribute}".removeprefix(".")
    return _Part(module, attribute, whole, suffix == "g" and hasattr(module, f"{stem}_v"))


def _verdict(
    module: nn.Module, attribute: str, magnitude: bool, param: Tensor, reg_embedding: bool
) -> tuple[bool, str]:
    kind = type_before_parametrizations(module).__name__
    if "bias" in attribute.split("_"):
        return False, f"bias of {kind}"
    if isinstance(module, _NORMS):
        return False, f"normalization: {kind}"
    if magnitude:
        return False, f"magnitude of {kind} under weight_norm"
    if isinstance(module, _EMBEDDINGS):
        return reg_embedding, f"embedding: {kind}"
    if param.ndim < 2:
        return False, f"vector of {kind}"
    if isinstance(module, _WEIGHTS):
        return True, f"weight of {kind}"
    # A module of unknown type. Tokens and layer scales are made to be broadcast: (1, 1, C), (1, N, C), (C, 1, 1).
    if sum(size != 1 for size in param.shape) < 2:
        return False, f"vector of {kind}"
    if param.ndim >= 3 and param.shape[0] == 1:
        return False, f"token of {kind}"
    return True, f"weight of {kind}"


def _data_parallel_module(model: nn.Module) -> nn.Module | None:
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return model.module if isinstance(model, wrappers) else None


def _clean(name: str) -> str:
    """Remove what torch.compile adds to the name of a compiled sub-module."""
    return name.replace("_orig_mod.", "")
