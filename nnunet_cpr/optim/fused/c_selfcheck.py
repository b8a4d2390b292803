"""Try a freshly compiled CPU kernel on a small case, in a process of its own: `python c_selfcheck.py LIBRARY`.

A compiler may make a library that is wrong, crashes or never returns, which must not happen in a training. The expected
values are computed with Python's floats, so that torch need not be imported. The exit code is 0 if all agree.
"""

import ctypes
import math
import sys
from collections.abc import Sequence

_SIZES = (1, 45, 8192 + 37)  # less than a row, rows and a rest, more than a chunk
_KEEP = (1.0, 0.5, 0.75)
_LR, _BETA1, _BETA2, _EPS, _STEPS = 0.01, 0.9, 0.99, 1e-8, 3
_MOMENTUM, _DAMPENING = 0.9, 0.5
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6

Rows = list[list[float]]


def _rows(phase: float, scale: float = 1.0, offset: float = 0.0) -> Rows:
    """Return numbers for tensors of these sizes, rounded to float32."""
    return [
        list((ctypes.c_float * size)(*[offset + scale * math.sin(phase + 0.7 * i) for i in range(size)]))
        for size in _SIZES
    ]


class _Tensors:
    """Rows as float32 in memory, and the addresses that the kernel takes, good while this object is there."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._memory = [(ctypes.c_float * len(row))(*row) for row in rows]
        self.addresses = (ctypes.c_void_p * len(rows))(*[ctypes.addressof(row) for row in self._memory])

    def are(self, expected: Rows) -> bool:
        pairs = [pair for row, its in zip(self._memory, expected, strict=True) for pair in zip(row, its, strict=True)]
        return all(math.isclose(a, b, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE) for a, b in pairs)


def _right(library: ctypes.CDLL, function: str, expected: Rows, *arguments: object) -> bool:
    """Call a function of the kernel; return whether it adds up the squares of the weights that it should leave."""
    sums = (ctypes.c_double * len(_SIZES))()
    where = 1 if function == "square_sums" else 3
    sizes = (ctypes.c_int64 * len(_SIZES))(*_SIZES)
    count = ctypes.c_int64(len(_SIZES))
    failed = getattr(library, function)(count, sizes, *arguments[:where], sums, *arguments[where:])
    exact = [math.fsum(x * x for x in row) for row in expected]
    return not failed and all(math.isclose(a, b, rel_tol=_RELATIVE) for a, b in zip(sums, exact, strict=True))


def _numbers(*values: float) -> list[ctypes.c_double]:
    return [ctypes.c_double(value) for value in values]


def _square_sums(library: ctypes.CDLL) -> bool:
    rows = _rows(0)
    weights = _Tensors(rows)
    return _right(library, "square_sums", rows, weights.addresses)


def _adam(library: ctypes.CDLL) -> bool:
    rows = _rows(0), _rows(1), _rows(2, 0.5), _rows(3, 0.4, 0.5)
    weights, gradients, means, squares = map(_Tensors, rows)
    steps = _Tensors([[_STEPS]] * len(_SIZES))
    states = means.addresses, squares.addresses, steps.addresses
    rate, spread = _LR / (1 - _BETA1 ** (_STEPS + 1)), 1 / math.sqrt(1 - _BETA2 ** (_STEPS + 1))
    ends: tuple[Rows, Rows, Rows] = [], [], []
    for xs, gs, ms, vs, keep in zip(*rows, _KEEP, strict=True):
        for end in ends:
            end.append([])
        for x, g, m, v in zip(xs, gs, ms, vs, strict=True):
            m, v = _BETA1 * m + (1 - _BETA1) * g, _BETA2 * v + (1 - _BETA2) * g * g
            x = keep * x - rate * m / (math.sqrt(v) * spread + _EPS)
            for end, value in zip(ends, (x, m, v), strict=True):
                end[-1].append(value)
    options = *_numbers(_LR, _BETA1, _BETA2, _EPS), 0
    right = _right(library, "adam", ends[0], weights.addresses, gradients.addresses, _factors(), *states, *options)
    counted = steps.are([[_STEPS + 1]] * len(_SIZES))
    return right and counted and weights.are(ends[0]) and means.are(ends[1]) and squares.are(ends[2])


def _sgd(library: ctypes.CDLL) -> bool:
    rows = _rows(0), _rows(1), _rows(2, 0.5)
    weights, gradients, buffers = map(_Tensors, rows)
    ends: tuple[Rows, Rows] = [], []
    for xs, gs, bs, keep in zip(*rows, _KEEP, strict=True):
        ends[1].append([_MOMENTUM * b + (1 - _DAMPENING) * g for g, b in zip(gs, bs, strict=True)])
        columns = zip(xs, gs, ends[1][-1], strict=True)
        ends[0].append([keep * x - _LR * (g + _MOMENTUM * b) for x, g, b in columns])  # Nesterov's
    options = *_numbers(_LR, _MOMENTUM, _DAMPENING), 1, 0
    right = _right(
        library, "sgd", ends[0], weights.addresses, gradients.addresses, _factors(), buffers.addresses, *options
    )
    return right and weights.are(ends[0]) and buffers.are(ends[1])


def _factors() -> "ctypes.Array[ctypes.c_float]":
    return (ctypes.c_float * len(_KEEP))(*_KEEP)


def agrees(library: ctypes.CDLL) -> bool:
    """Return whether the three functions of a library do what torch's optimizers do."""
    return _square_sums(library) and _adam(library) and _sgd(library)


if __name__ == "__main__":
    sys.exit(0 if agrees(ctypes.CDLL(sys.argv[1])) else "its results are not those of the optimizers")
