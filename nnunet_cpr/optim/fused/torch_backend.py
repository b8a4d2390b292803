"""Where there is no compiled kernel: torch's own operators, a piece of the weights at a time (l2, CPU, float32).

torch's fused AdamW multiplies the weights by 1 - lr * weight_decay before Adam's update; with weight_decay =
(1 - keep) / lr that is our factor. SGD's weight decay goes through the momentum, so there the weights are scaled by an
operator of its own. The next step's R is read right after the update. Done piece by piece, what comes second or third
finds its piece in the cache.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nnunet_cpr.optim.fused.backend import STATES, TensorBatch
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout
from nnunet_cpr.optim.reductions import ROW

if TYPE_CHECKING:
    from nnunet_cpr.optim.stacked_state import StackedState

PIECE = 2**20
"""Elements, a multiple of ROW. Fewer would cost calls; these, with gradient and state, take up to 16 MB of cache."""
_SMALLEST_LR = 1e-100  # (1 - keep) / lr must stay finite; float32 holds no factor that overflows here

_Rows = list[tuple[Tensor, Tensor]]
"""Views of weights, shape (rows, length), and where the rows' norms are put, shape (rows,)."""


class _Batch(NamedTuple):
    """Pieces that go through the cache together, of one tensor or several, PIECE elements at most."""

    numbers: list[int]
    """Of their tensors."""
    parts: list[int]
    """Which piece of its tensor each is."""
    weights: list[Tensor]
    buffers: list[list[Tensor]]
    """By state."""
    rows: _Rows


class _Cut(NamedTuple):
    """Views of weights and states last as long as these do, and making them costs as much as the arithmetic."""

    batches: list[_Batch]
    norms: Tensor
    """Of all rows, tensor by tensor."""
    lengths: list[int]
    """The rows of each tensor."""


def covers(work: TensorBatch, kept: "StackedState") -> bool:
    """Return whether this can do the constraint step and the update of these tensors."""
    return work.found_inf is None and kept.sums.take(work)


def value(work: TensorBatch, kept: "StackedState") -> Tensor:
    """Return R of each tensor; it is read only where no step before has added it up."""
    return kept.sums.value(work, square_sums)


@torch.no_grad()
def square_sums(params: Sequence[Tensor]) -> Tensor:
    """Return R = sum(theta^2) of each tensor: shape (len(params),), float64."""
    norms, lengths = _room(params)
    for param, room in zip(params, torch.split(norms, lengths), strict=True):
        _measure(_rows(_flat(param), room))
    return _sums(norms, lengths)


def step(work: TensorBatch, kept: "StackedState", keep: Tensor, kappa: Tensor) -> Sequence[int]:
    """Shrink and update the tensors whose bound is set."""
    return kept.sums.step(work, keep, kappa, shrink_and_update)


@torch.no_grad()
def shrink_and_update(work: TensorBatch, places: MemoryLayout, numbers: Sequence[int], keep: Sequence[float]) -> Tensor:
    """Multiply these tensors by their `keep` and do the optimizer's update, its state included.

    Returns:
        R of each tensor after it, bit for bit what :func:`square_sums` would find: shape (len(numbers),), float64.
    """
    batches, norms, lengths = places.prepared(_cut, work, numbers)
    gradients = {number: _pieces(work.gradients[number]) for number in numbers}
    update = {"adam": _adam, "sgd": _sgd}[work.update]
    if work.update == "adam":
        torch._foreach_add_([work.states[number]["step"] for number in numbers], 1)
    for batch in batches:
        parts = [gradients[number][part] for number, part in zip(batch.numbers, batch.parts, strict=True)]
        update(work, batch, parts, [keep[number] for number in batch.numbers])
        _measure(batch.rows)
    work.count_changes(numbers)
    return _sums(norms, lengths)


def _adam(work: TensorBatch, batch: _Batch, gradients: list[Tensor], factors: list[float]) -> None:
    group, lr = work.group, float(work.group["lr"])
    beta1, beta2 = map(float, group["betas"])
    columns = (batch.numbers, batch.weights, gradients, *batch.buffers, factors)
    for number, weights, gradient, exp_avg, exp_avg_sq, factor in zip(*columns, strict=True):
        if lr <= _SMALLEST_LR:
            weights.mul_(factor)
            factor = 1.0
        torch._fused_adamw_(
            [weights],
            [gradient],
            [exp_avg],
            [exp_avg_sq],
            [],
            [work.states[number]["step"]],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=(1 - factor) / lr if factor != 1 else 0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


def _sgd(work: TensorBatch, batch: _Batch, gradients: list[Tensor], factors: list[float]) -> None:
    if any([factor != 1 for factor in factors]):
        torch._foreach_mul_(batch.weights, factors)
    options = {name: work.group[name] for name in ("momentum", "dampening", "nesterov", "maximize")}
    torch._fused_sgd_(
        batch.weights,
        gradients,
        *batch.buffers,
        lr=float(work.group["lr"]),
        weight_decay=0.0,
        is_first_step=False,
        **options,
    )


def _cut(work: TensorBatch, numbers: Sequence[int]) -> _Cut:
    """Cut these tensors into pieces, and put small ones together."""
    names = STATES[work.update]
    norms, lengths = _room([work.params[number] for number in numbers])
    batches: list[_Batch] = []
    elements = 0
    for number, room in zip(numbers, torch.split(norms, lengths), strict=True):
        tensors = [work.params[number], *[work.states[number][name] for name in names]]
        columns = [*map(_pieces, tensors), torch.split(room, PIECE // ROW)]
        for part, (weights, *buffers, place) in enumerate(zip(*columns, strict=True)):
            if not batches or elements + weights.numel() > PIECE:
                batches.append(_Batch([], [], [], [[] for _ in names], []))
                elements = 0
            batch = batches[-1]
            elements += weights.numel()
            batch.numbers.append(number)
            batch.parts.append(part)
            batch.weights.append(weights)
            for column, buffer in zip(batch.buffers, buffers, strict=True):
                column.append(buffer)
            batch.rows.extend(_rows(_flat(weights), place))
    return _Cut(batches, norms, lengths)


def _flat(tensor: Tensor) -> Tensor:
    """Return a view of all elements in memory order."""
    # Detached: torch would refuse to swap the tensors of a model that moves, if a view of them were kept.
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Return views of PIECE elements, the last one of what is left; a small tensor as it is."""
    return torch.split(_flat(tensor), PIECE) if tensor.numel() > PIECE else [tensor]


def _room(params: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return room for the norms of all rows, and how many each tensor has."""
    lengths = [math.ceil(param.numel() / ROW) for param in params]
    return torch.empty(sum(lengths), dtype=torch.float32, device="cpu"), lengths


def _rows(weights: Tensor, room: Tensor) -> _Rows:
    """Cut into rows of ROW elements, and what is left."""
    whole = weights.numel() // ROW
    cut = whole * ROW
    pairs = [(weights[:cut].view(whole, ROW), room[:whole]), (weights[cut:].unsqueeze(0), room[whole:])]
    return [(rows, norms) for rows, norms in pairs if rows.numel()]


def _measure(rows: _Rows) -> None:
    # Over a whole piece torch would accumulate in a few lanes, and lose digits.
    for some, norms in rows:
        torch.linalg.vector_norm(some, dim=1, out=norms)


def _sums(norms: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the sum of squares of each tensor's norms, in their order, whatever the pieces."""
    return torch.segment_reduce(norms.double().square_(), "sum", lengths=torch.tensor(lengths, device="cpu"))
