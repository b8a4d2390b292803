"""Where there is no compiled kernel: torch's own operators, a piece of the weights at a time (l2, CPU, float32).

torch's fused AdamW multiplies the weights by 1 - lr * weight_decay before Adam's update; with weight_decay =
(1 - keep) / lr that is our factor. SGD's weight decay goes through the momentum, so there the weights are scaled by an
operator of its own. The next step's R is read right after the update. Done piece by piece, what comes second or third
finds its piece in the cache.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.bounds import Values
from nnunet_cpr.optim.one_pass import STATES, Work, could_cover, fits
from nnunet_cpr.optim.sums import ROW

if TYPE_CHECKING:
    from nnunet_cpr.optim.alike import Alike

PIECE = 2**20
"""Elements, a multiple of ROW. Fewer would cost calls; these, with gradient and state, take up to 16 MB of cache."""
_SMALLEST_LR = 1e-100  # (1 - keep) / lr must stay finite; float32 holds no factor that overflows here


class _Piece(NamedTuple):
    number: int
    """Of the tensor."""
    weights: Tensor
    gradient: Tensor
    buffers: list[Tensor]


def covers(work: Work, kept: "Alike") -> bool:
    """Return whether this can do the constraint step and the update of these tensors."""
    return could_cover(work) and work.found_inf is None and fits(work, "cpu")


def value(work: Work, kept: "Alike", values: Values) -> Tensor:
    """Return R of each tensor; it is read only where it counts and no step before has added it up."""
    return kept.sums.value(work, values, square_sums)


def square_sums(params: Sequence[Tensor]) -> Tensor:
    """Return R = sum(theta^2) of each tensor: shape (len(params),), float64."""
    return _add([[_row_norms(piece) for piece in _pieces(_flat(param))] for param in params])


def step(work: Work, kept: "Alike", keep: Tensor, kappa: Tensor) -> Sequence[Tensor]:
    """Shrink and update the tensors whose bound is set."""
    return kept.sums.step(work, keep, kappa, shrink_and_update)


def shrink_and_update(work: Work, numbers: Sequence[int], keep: Sequence[float]) -> Tensor:
    """Multiply these tensors by their `keep` and do the optimizer's update, its state included.

    Returns:
        R of each tensor after it, bit for bit what :func:`square_sums` would find: shape (len(numbers),), float64.
    """
    norms: dict[int, list[Tensor]] = {number: [] for number in numbers}
    with torch.no_grad():
        if work.update == "adam":
            torch._foreach_add_([work.states[number]["step"] for number in numbers], 1)
        for batch in _batches(work, numbers):
            if work.update == "adam":
                for piece in batch:
                    _adam(work, piece, keep[piece.number])
            else:
                torch._foreach_mul_([piece.weights for piece in batch], [keep[piece.number] for piece in batch])
                _sgd(work, batch)
            for piece in batch:
                norms[piece.number].append(_row_norms(piece.weights))
    # torch's fused optimizers change weights without counting it: autograd must still notice.
    torch.autograd.graph.increment_version([work.params[number] for number in numbers])
    return _add(list(norms.values()))


def _adam(work: Work, piece: _Piece, keep: float) -> None:
    group, lr = work.group, float(work.group["lr"])
    if lr <= _SMALLEST_LR:
        piece.weights.mul_(keep)
        keep = 1.0
    beta1, beta2 = map(float, group["betas"])
    exp_avg, exp_avg_sq = piece.buffers
    torch._fused_adamw_(
        [piece.weights],
        [piece.gradient],
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


def _sgd(work: Work, batch: Sequence[_Piece]) -> None:
    options = {name: work.group[name] for name in ("momentum", "dampening", "nesterov", "maximize")}
    torch._fused_sgd_(
        [piece.weights for piece in batch],
        [piece.gradient for piece in batch],
        [piece.buffers[0] for piece in batch],
        lr=float(work.group["lr"]),
        weight_decay=0.0,
        is_first_step=False,
        **options,
    )


def _batches(work: Work, numbers: Sequence[int]) -> Iterator[list[_Piece]]:
    """Cut tensors into pieces, and put small ones together, PIECE elements at most."""
    names = STATES[work.update]
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
