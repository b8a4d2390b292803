"""What the C kernels add up does not depend on the number of threads; they are compiled only where they are of use."""

import pytest
import torch
from optim_helpers import Pull, make_fused

from nnunet_cpr.optim.fused import TensorBatch, c_backend, c_build
from nnunet_cpr.optim.fused.memory_layout import MemoryLayout

CHUNK = 8192  # of the C source
needs_kernel = pytest.mark.skipif(c_build.kernels() is None, reason="no C compiler, or not Linux")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def normal(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) + 3 for size in sizes]


def sums_by_torch(tensors):
    return torch.stack([tensor.double().square().sum() for tensor in tensors])


@needs_kernel
def test_square_sums_are_exact_and_do_not_depend_on_threads():
    tensors = normal(0, 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 1_000_003)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(c_backend.read_squared_norms(tensors))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], sums_by_torch(tensors), rtol=1e-12, atol=0)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernel
@pytest.mark.parametrize("update", ["adam", "sgd"])
def test_an_update_returns_what_reading_would(update, threads):
    sizes = (1, 17, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77)
    params, gradients, buffers = normal(*sizes), normal(*sizes), normal(*sizes)
    if update == "adam":
        states = [{"exp_avg": b, "exp_avg_sq": b.square(), "step": torch.tensor(3.0)} for b in buffers]
        group = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "maximize": False}
    else:
        states = [{"momentum_buffer": buffer} for buffer in buffers]
        group = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "nesterov": True, "maximize": False}
    batch = TensorBatch(update, group, params, gradients, states)
    layout = MemoryLayout(batch, [*batch.buffers(), batch.steps()])
    sums = c_backend.run_update(batch, layout, range(len(sizes)), [0.9] * len(sizes))
    assert torch.equal(sums, c_backend.read_squared_norms(params))
    torch.testing.assert_close(sums, sums_by_torch(params), rtol=1e-12, atol=0)
    assert not torch.equal(params[-1], normal(*sizes)[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_nothing_is_compiled_for_tensors_that_it_cannot_take(dtype, monkeypatch):
    monkeypatch.setattr(c_build, "kernels", lambda: pytest.fail("the kernels were asked for"))
    pull = Pull(shapes=((7, 5),), dtype=dtype)
    params = pull.params()
    pull.run(make_fused(params), params, 0, 4)
