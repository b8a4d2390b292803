# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The GPU kernels in Triton: R of l2, and the constraint step with the optimizer's update, for many tensors at once.

A table holds the addresses of the tensors; these are cut into chunks of CHUNK elements, one program a chunk. What an
update has written it squares while it is in registers. The sums of chunks are added in order, so results do not depend
on which program comes first. Reading and updating add up by the same function, and so find the same bits. Where all
addresses are multiples of 16 bytes (`align`) a thread moves four elements at once. No other argument's value is
specialized for: what was compiled for the first step serves for all.
"""

import triton
import triton.language as tl

CHUNK = 8192
BLOCK = 1024  # elements at once; CHUNK is a multiple


@triton.jit
def _tensor(table, row, number, tensors):
    """The address in a row of the table (0: weights, 1: gradients, ...), as a pointer."""
    return tl.load(table + row * tensors + number).to(tl.pointer_type(tl.float32))


@triton.jit
def _chunk(table, row, number, tensors, start, align: tl.constexpr):
    return tl.multiple_of(_tensor(table, row, number, tensors) + start, align)


@triton.jit
def _load(pointer, offsets, length, whole: tl.constexpr):
    if whole:
        return tl.load(pointer + offsets)
    return tl.load(pointer + offsets, mask=offsets < length, other=0.0)


@triton.jit
def _store(pointer, offsets, values, length, whole: tl.constexpr):
    if whole:
        tl.store(pointer + offsets, values)
    else:
        tl.store(pointer + offsets, values, mask=offsets < length)


@triton.jit
def _mark(x):
    """The bits of a chunk's first element: NaN is equal to itself."""
    return tl.load(x.to(tl.pointer_type(tl.int32)))


@triton.jit
def _add_squares(sums, weight, offsets, length, whole: tl.constexpr):
    """Reading and updating add up alike: both without what lies beyond the end, where an update may find NaN."""
    if not whole:
        weight = tl.where(offsets < length, weight, 0.0)
    return tl.fma(weight, weight, sums)


@triton.jit
def _squares(x, length, chunk: tl.constexpr, block: tl.constexpr, whole: tl.constexpr):
    sums = tl.zeros((block,), tl.float32)
    for start in range(0, chunk, block):
        offsets = start + tl.arange(0, block)
        sums = _add_squares(sums, _load(x, offsets, length, whole), offsets, length, whole)
    return tl.sum(sums)


@triton.jit(do_not_specialize=["tensors"])
def read_chunks(table, tensors, number_of_chunk, first_chunk, lengths, marks, sums, changed,
                chunk: tl.constexpr, block: tl.constexpr, align: tl.constexpr):  # fmt: skip
    """sums[c] = sum of squares of chunk c, if its tensor t is changed[t] or its first element is not marks[c]."""
    c = tl.program_id(0)
    number = tl.load(number_of_chunk + c)
    start = (c - tl.load(first_chunk + number)).to(tl.int64) * chunk
    x = _chunk(table, 0, number, tensors, start, align)
    mark = _mark(x)
    if (tl.load(changed + number) != 0) | (mark != tl.load(marks + c)):
        length = tl.load(lengths + number) - start
        if length >= chunk:
            tl.store(sums + c, _squares(x, length, chunk, block, True))
        else:
            tl.store(sums + c, _squares(x, length, chunk, block, False))


@triton.jit
def add_chunks(first_chunk, sums, regs, block: tl.constexpr):
    """regs[t] = sum of the sums of tensor t's chunks, in float64."""
    number = tl.program_id(0)
    stop = tl.load(first_chunk + number + 1)
    total = tl.zeros((block,), tl.float64)
    for c in range(tl.load(first_chunk + number), stop, block):
        chunks = c + tl.arange(0, block)
        total += tl.load(sums + chunks, mask=chunks < stop, other=0.0).to(tl.float64)
    tl.store(regs + number, tl.sum(total).to(tl.float32))


@triton.jit(do_not_specialize=["tensors"])
def begin_adam(table, tensors, options, rates, spreads, found_inf, guarded: tl.constexpr):
    """Count a step of each tensor; rates[t] = lr / (1 - beta1^step), spreads[t] = 1 / sqrt(1 - beta2^step)."""
    if guarded and tl.load(found_inf) != 0:
        return
    number = tl.program_id(0)
    steps = _tensor(table, 4, number, tensors)  # the last row
    step = tl.load(steps) + 1
    tl.store(steps, step)
    # 1 - beta^step loses its digits in float32
    lr, beta1, beta2 = tl.load(options), tl.load(options + 1), tl.load(options + 2)
    powers1, powers2 = tl.exp(step.to(tl.float64) * tl.log(beta1)), tl.exp(step.to(tl.float64) * tl.log(beta2))
    tl.store(rates + number, (lr / (1 - powers1)).to(tl.float32))
    tl.store(spreads + number, (1 / tl.sqrt(1 - powers2)).to(tl.float32))


@triton.jit
def _gradient(g, offsets, length, sign, grad_scale, whole: tl.constexpr, scaled: tl.constexpr):
    gradient = _load(g, offsets, length, whole)
    if scaled:
        gradient = gradient / tl.load(grad_scale)
        _store(g, offsets, gradient, length, whole)
    return sign * gradient


@triton.jit
def _adam(x, g, m, v, keep, rate, spread, options, length, grad_scale,
          chunk: tl.constexpr, block: tl.constexpr, whole: tl.constexpr, scaled: tl.constexpr):  # fmt: skip
    beta1, beta2 = tl.load(options + 1), tl.load(options + 2)
    b1, b2 = beta1.to(tl.float32), beta2.to(tl.float32)
    c1, c2 = (1 - beta1).to(tl.float32), (1 - beta2).to(tl.float32)
    eps, sign = tl.load(options + 3).to(tl.float32), tl.load(options + 4).to(tl.float32)
    sums = tl.zeros((block,), tl.float32)
    for start in range(0, chunk, block):
        offsets = start + tl.arange(0, block)
        gradient = _gradient(g, offsets, length, sign, grad_scale, whole, scaled)
        momentum = b1 * _load(m, offsets, length, whole) + c1 * gradient
        square = b2 * _load(v, offsets, length, whole) + c2 * gradient * gradient
        weight = keep * _load(x, offsets, length, whole) - tl.div_rn(rate * momentum, tl.sqrt_rn(square) * spread + eps)
        _store(m, offsets, momentum, length, whole)
        _store(v, offsets, square, length, whole)
        _store(x, offsets, weight, length, whole)
        sums = _add_squares(sums, weight, offsets, length, whole)
    return tl.sum(sums)


@triton.jit(do_not_specialize=["tensors"])
def adam(table, tensors, number_of_chunk, first_chunk, lengths, marks, sums, keep, rates, spreads, options,
         found_inf, grad_scale, chunk: tl.constexpr, block: tl.constexpr, align: tl.constexpr,
         guarded: tl.constexpr, scaled: tl.constexpr):  # fmt: skip
    """x = x * keep[t] - lr * (m / correction1) / (sqrt(v) / correction2 + eps), as torch.optim.Adam; sums, marks.

    Rows of the table: x, gradient, m, v, step. options: lr, beta1, beta2, eps, sign of the gradient. `guarded`: nothing
    happens where found_inf is not 0. `scaled`: gradients are first divided by grad_scale, in place, as torch does it.
    """
    if guarded and tl.load(found_inf) != 0:
        return
    c = tl.program_id(0)
    number = tl.load(number_of_chunk + c)
    start = (c - tl.load(first_chunk + number)).to(tl.int64) * chunk
    length = tl.load(lengths + number) - start
    x, g = _chunk(table, 0, number, tensors, start, align), _chunk(table, 1, number, tensors, start, align)
    m, v = _chunk(table, 2, number, tensors, start, align), _chunk(table, 3, number, tensors, start, align)
    k, rate, spread = tl.load(keep + number), tl.load(rates + number), tl.load(spreads + number)
    if length >= chunk:
        total = _adam(x, g, m, v, k, rate, spread, options, length, grad_scale, chunk, block, True, scaled)
    else:
        total = _adam(x, g, m, v, k, rate, spread, options, length, grad_scale, chunk, block, False, scaled)
    tl.store(sums + c, total)
    tl.debug_barrier()  # the first element was written by another thread
    tl.store(marks + c, _mark(x))


@triton.jit
def _sgd(x, g, buffer, keep, options, length, grad_scale,
         chunk: tl.constexpr, block: tl.constexpr, whole: tl.constexpr, scaled: tl.constexpr,
         nesterov: tl.constexpr):  # fmt: skip
    lr, momentum = tl.load(options).to(tl.float32), tl.load(options + 1).to(tl.float32)
    damp, sign = (1 - tl.load(options + 2)).to(tl.float32), tl.load(options + 3).to(tl.float32)
    sums = tl.zeros((block,), tl.float32)
    for start in range(0, chunk, block):
        offsets = start + tl.arange(0, block)
        gradient = _gradient(g, offsets, length, sign, grad_scale, whole, scaled)
        carried = momentum * _load(buffer, offsets, length, whole) + damp * gradient
        direction = gradient + momentum * carried if nesterov else carried
        weight = keep * _load(x, offsets, length, whole) - lr * direction
        _store(buffer, offsets, carried, length, whole)
        _store(x, offsets, weight, length, whole)
        sums = _add_squares(sums, weight, offsets, length, whole)
    return tl.sum(sums)


@triton.jit(do_not_specialize=["tensors"])
def sgd(table, tensors, number_of_chunk, first_chunk, lengths, marks, sums, keep, options, found_inf, grad_scale,
        chunk: tl.constexpr, block: tl.constexpr, align: tl.constexpr, guarded: tl.constexpr,
        scaled: tl.constexpr, nesterov: tl.constexpr):  # fmt: skip
    """x = x * keep[t] - lr * direction, as torch.optim.SGD with momentum; sums, marks.

    Rows of the table: x, gradient, momentum buffer. options: lr, momentum, dampening, sign. The rest as for adam.
    """
    if guarded and tl.load(found_inf) != 0:
        return
    c = tl.program_id(0)
    number = tl.load(number_of_chunk + c)
    start = (c - tl.load(first_chunk + number)).to(tl.int64) * chunk
    length = tl.load(lengths + number) - start
    x, g = _chunk(table, 0, number, tensors, start, align), _chunk(table, 1, number, tensors, start, align)
    buffer, k = _chunk(table, 2, number, tensors, start, align), tl.load(keep + number)
    if length >= chunk:
        total = _sgd(x, g, buffer, k, options, length, grad_scale, chunk, block, True, scaled, nesterov)
    else:
        total = _sgd(x, g, buffer, k, options, length, grad_scale, chunk, block, False, scaled, nesterov)
    tl.store(sums + c, total)
    tl.debug_barrier()
    tl.store(marks + c, _mark(x))
