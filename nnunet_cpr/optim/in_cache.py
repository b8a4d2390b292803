"""Where there is no compiled kernel: torch's own operators, a piece of the weights at a time (l2, CPU, float32).

Shrinking, torch's fused update and the next step's R each go through memory once. Done piece by piece, the second and
third find their piece in the cache.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.one_pass import STATES, Work, bounded, could_cover, plain
from nnunet_cpr.optim.sums import ROW

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

PIECE = 2**20
"""Elements, a multiple of ROW. Fewer would cost calls; these, with gradient and state, take up to 16 MB of cache."""
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class _Piece(NamedTuple):
    number: int
    """Of the tensor."""
    weights: Tensor
    gradient: Tensor
    buffers: list[Tensor]


def covers(work: Work) -> bool:
    """Return whether the tensors are float32 in the host's memory, each without gaps, gradients and state alike."""
    if not (could_cover(work) and work.found_inf is None and plain(work.params, "cpu")):
        return False
    if not (all(map(_without_gaps, work.params)) and _alike(work.gradients(), work.params)):
        return False
    return all(
        [
            plain(buffers, "cpu") if name == "step" else _alike(buffers, work.params)
            for name in STATES[str(work.update)]
            for buffers in [work.buffers(name)]
        ]
    )


def value(work: Work, kept: "Alike") -> Tensor:
    """Return R of each tensor; it is read only where no step before has added it up."""
    return kept.sums.of(work.params, read=square_sums)


def square_sums(params: Sequence[Tensor]) -> Tensor:
    """Return R = sum(theta^2) of each tensor: shape (len(params),), float64."""
    return _add([[_row_norms(piece) for piece in _pieces(_flat(param))] for param in params])


def step(work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[Tensor]:
    """Shrink and update the tensors whose bound is set."""
    numbers = bounded(kappa, keep)
    kept.sums.forget(work.params)
    if not numbers:
        return ()
    params = [work.params[number] for number in numbers]
    kept.sums.remember(params, shrink_and_update(work, numbers, keep.tolist()))
    return params


def shrink_and_update(work: Work, numbers: Sequence[int], keep: Sequence[float]) -> Tensor:
    """Multiply these tensors by their `keep` and do the optimizer's update, its state included.

    Returns:
        R of each tensor after it, bit for bit what :func:`square_sums` would find: shape (len(numbers),), float64.
    """
    params = [work.params[number] for number in numbers]
    norms: dict[int, list[Tensor]] = {number: [] for number in numbers}
    with torch.no_grad():
        if work.update == "adam":
            torch._foreach_add_([work.states[number]["step"] for number in numbers], 1)
        for batch in _batches(work, numbers):
            torch._foreach_mul_([piece.weights for piece in batch], [keep[piece.number] for piece in batch])
            _update(work, batch)
            for piece in batch:
                norms[piece.number].append(_row_norms(piece.weights))
    # torch's fused optimizers change weights without counting it: autograd must still notice.
    torch.autograd.graph.increment_version(params)
    return _add(list(norms.values()))


def _update(work: Work, batch: Sequence[_Piece]) -> None:
    group = work.group
    lists: list[Any] = [[piece.weights for piece in batch], [piece.gradient for piece in batch]]
    lists += [list(some) for some in zip(*[piece.buffers for piece in batch], strict=True)]
    options: dict[str, Any] = {"lr": float(group["lr"]), "weight_decay": 0.0, "maximize": group["maximize"]}
    if work.update == "adam":
        beta1, beta2 = map(float, group["betas"])
        options |= {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": False}
        lists += [[], [work.states[piece.number]["step"] for piece in batch]]
        torch._fused_adam_(*lists, **options)
    else:
        options |= {name: group[name] for name in ("momentum", "dampening", "nesterov")}
        torch._fused_sgd_(*lists, is_first_step=False, **options)


def _batches(work: Work, numbers: Sequence[int]) -> Iterator[list[_Piece]]:
    """Cut tensors into pieces, and put small ones together, PIECE elements at most."""
    names = [name for name in STATES[str(work.update)] if name != "step"]
    batch: list[_Piece] = []
    elements = 0
    for number in numbers:
        param, state = work.params[number], work.states[number]
        tensors: list[Any] = [param, param.grad, *[state[name] for name in names]]
        for weights, gradient, *buffers in zip(*[_pieces(_flat(tensor)) for tensor in tensors], strict=True):
            if batch and elements + weights.numel() > PIECE:
                yield batch
                batch, elements = [], 0
            batch.append(_Piece(number, weights, gradient, buffers))
            elements += weights.numel()
    yield batch


def _flat(tensor: Tensor) -> Tensor:
    """Return a view of all elements in memory order."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _pieces(flat: Tensor) -> list[Tensor]:
    if flat.numel() <= PIECE:
        return [flat]
    return [flat[start : start + PIECE] for start in range(0, flat.numel(), PIECE)]


def _row_norms(piece: Tensor) -> Tensor:
    # Over a whole piece torch would accumulate in a few lanes, and lose digits.
    whole = piece.numel() // ROW * ROW
    if whole == 0:
        return torch.linalg.vector_norm(piece).view(1)  # type: ignore[no-any-return]
    norms: Tensor = torch.linalg.vector_norm(piece[:whole].view(whole // ROW, ROW), dim=1)
    if whole == piece.numel():
        return norms
    return torch.cat([norms, torch.linalg.vector_norm(piece[whole:]).view(1)])


def _add(norms: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the sum of squares of each tensor's norms, in their order, whatever the pieces."""
    squares = torch.cat([part for some in norms for part in some]).double().square_()
    return torch.stack([part.sum() for part in torch.split(squares, [sum(map(len, some)) for some in norms])])


def _alike(tensors: Sequence[Any], params: Sequence[Tensor]) -> bool:
    return plain(tensors, "cpu") and all(
        [x.shape == p.shape and x.stride() == p.stride() for x, p in zip(tensors, params, strict=True)]
    )


def _without_gaps(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    format = _FORMATS.get(tensor.ndim)
    return format is not None and tensor.is_contiguous(memory_format=format)
