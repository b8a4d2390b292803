"""Where there is no compiled kernel: torch's own operators, a piece of the weights at a time (l2, CPU, float32).

torch's fused AdamW multiplies the weights by 1 - lr * weight_decay before Adam's update; with weight_decay =
(1 - keep) / lr that is our factor. SGD's weight decay goes through the momentum, so there the weights are scaled by an
operator of its own. The next step's R is read right after the update. Done piece by piece, what comes second or third
finds its piece in the cache.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values
from nnunet_cpr.optim.one_pass import STATES, Work
from nnunet_cpr.optim.places import Places
from nnunet_cpr.optim.sums import ROW

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

PIECE = 2**20
"""Elements, a multiple of ROW. Fewer would cost calls; these, with gradient and state, take up to 16 MB of cache."""
_SMALLEST_LR = 1e-100  # (1 - keep) / lr must stay finite; float32 holds no factor that overflows here


class _Piece(NamedTuple):
    number: int
    """Of the tensor."""
    place: slice
    """In it."""
    weights: Tensor
    buffers: list[Tensor]
    rows: list[Tensor]
    """The weights as :func:`_row_norms` takes them."""


def covers(work: Work, kept: "Alike") -> bool:
    """Return whether this can do the constraint step and the update of these tensors."""
    return work.found_inf is None and kept.sums.take(work)


def value(work: Work, kept: "Alike", values: Values) -> Tensor:
    """Return R of each tensor; it is read only where it counts and no step before has added it up."""
    return kept.sums.value(work, values, square_sums)


def square_sums(params: Sequence[Tensor]) -> Tensor:
    """Return R = sum(theta^2) of each tensor: shape (len(params),), float64."""
    pieces = [[_rows(_flat(param)[place]) for place in _places(param.numel())] for param in params]
    return _add([_row_norms(list(itertools.chain(*rows))) for rows in pieces])


def step(work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update the tensors whose bound is set."""
    return kept.sums.step(work, keep, kappa, shrink_and_update)


def shrink_and_update(work: Work, places: Places, numbers: Sequence[int], keep: Sequence[float]) -> Tensor:
    """Multiply these tensors by their `keep` and do the optimizer's update, its state included.

    Returns:
        R of each tensor after it, bit for bit what :func:`square_sums` would find: shape (len(numbers),), float64.
    """
    norms: dict[int, list[Tensor]] = {number: [] for number in numbers}
    # Views of weights and states last as long as these do, and making them costs as much as the arithmetic.
    if places.cut is None or places.cut[0] != numbers:
        places.cut = numbers, list(_cut(work, numbers))
    gradients = {number: _flat(work.gradients[number]) for number in numbers}
    with torch.no_grad():
        if work.update == "adam":
            torch._foreach_add_([work.states[number]["step"] for number in numbers], 1)
        for batch in places.cut[1]:
            parts = [_part(gradients[piece.number], piece.place) for piece in batch]
            if work.update == "adam":
                for piece, gradient in zip(batch, parts, strict=True):
                    _adam(work, piece, gradient, keep[piece.number])
            else:
                factors = [keep[piece.number] for piece in batch]
                if any([factor != 1 for factor in factors]):
                    torch._foreach_mul_([piece.weights for piece in batch], factors)
                _sgd(work, batch, parts)
            for piece in batch:
                norms[piece.number] += _row_norms(piece.rows)
    work.count_changes(numbers)
    return _add(list(norms.values()))


def _adam(work: Work, piece: _Piece, gradient: Tensor, keep: float) -> None:
    group, lr = work.group, float(work.group["lr"])
    if lr <= _SMALLEST_LR:
        piece.weights.mul_(keep)
        keep = 1.0
    beta1, beta2 = map(float, group["betas"])
    exp_avg, exp_avg_sq = piece.buffers
    torch._fused_adamw_(
        [piece.weights],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [work.states[piece.number]["step"]],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=(1 - keep) / lr if keep != 1 else 0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def _sgd(work: Work, batch: Sequence[_Piece], gradients: list[Tensor]) -> None:
    options = {name: work.group[name] for name in ("momentum", "dampening", "nesterov", "maximize")}
    torch._fused_sgd_(
        [piece.weights for piece in batch],
        gradients,
        [piece.buffers[0] for piece in batch],
        lr=float(work.group["lr"]),
        weight_decay=0.0,
        is_first_step=False,
        **options,
    )


def _cut(work: Work, numbers: Sequence[int]) -> Iterator[list[_Piece]]:
    """Cut tensors into pieces, and put small ones together, PIECE elements at most."""
    batch: list[_Piece] = []
    elements = 0
    for number in numbers:
        state = work.states[number]
        weights, *buffers = map(_flat, [work.params[number], *[state[name] for name in STATES[work.update]]])
        for place in _places(weights.numel()):
            part = _part(weights, place)
            if batch and elements + part.numel() > PIECE:
                yield batch
                batch, elements = [], 0
            batch.append(_Piece(number, place, part, [_part(buffer, place) for buffer in buffers], _rows(part)))
            elements += part.numel()
    yield batch


def _flat(tensor: Tensor) -> Tensor:
    """Return a view of all elements in memory order."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _places(elements: int) -> list[slice]:
    return [slice(start, start + PIECE) for start in range(0, elements, PIECE)] or [slice(0, 0)]


def _part(flat: Tensor, place: slice) -> Tensor:
    return flat if flat.numel() <= PIECE else flat[place]


def _rows(piece: Tensor) -> list[Tensor]:
    """Return views: rows of ROW elements, and what is left."""
    whole = piece.numel() // ROW * ROW
    views = [piece[:whole].view(whole // ROW, ROW), piece[whole:].view(1, piece.numel() - whole)]
    return [view for view in views if view.numel()] or views[1:]


def _row_norms(rows: Sequence[Tensor]) -> list[Tensor]:
    # Over a whole piece torch would accumulate in a few lanes, and lose digits.
    return [torch.linalg.vector_norm(some, dim=1) for some in rows]


def _add(norms: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the sum of squares of each tensor's norms, in their order, whatever the pieces."""
    squares = torch.cat([part for some in norms for part in some]).double().square_()
    lengths = torch.tensor([sum(map(len, some)) for some in norms], device="cpu")
    return torch.segment_reduce(squares, "sum", lengths=lengths)
