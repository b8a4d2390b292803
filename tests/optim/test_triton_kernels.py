"""The Triton kernels compile for GPUs, go through chunks of several blocks, and are tried before they are used."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optim_helpers import CLASSES, Pull, assert_same_bits, changed_default, make_fused
from torch.optim.optimizer import register_optimizer_step_post_hook

from nnunet_cpr.optim import fused
from nnunet_cpr.optim.fused import triton_backend, triton_selfcheck

triton_kernels = pytest.importorskip(
    "nnunet_cpr.optim.fused.triton_kernels", reason="no Triton, which comes with torch on Linux"
)
triton_only = pytest.mark.parametrize("backend", ["triton"], indirect=True)


def test_compiles_for_gpus_that_are_not_here(tmp_path):
    """Three generations; loads and stores of four elements, one a tensor and 512 elements; nothing spilled."""
    pytest.importorskip("triton", minversion="3.3")  # older ones take other arguments
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compile_triton_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {row["capability"] for row in found} == {75, 80, 90}
    assert all(row["binary"] > 1000 and not row["spilled"] for row in found)
    times = triton_kernels.BLOCK // (4 * 128)
    for row in found:
        if row["align"] == 4:
            assert row["wide_loads"] == row["wide_stores"] == 0
        elif row["kernel"] in ("adam", "sgd"):
            loaded = 4 if row["kernel"] == "adam" else 3
            assert row["wide_loads"] == loaded * times
            assert row["wide_stores"] in ((loaded - 1) * times, loaded * times)  # GradScaler's gradients are written


@triton_only
@pytest.mark.parametrize("name", CLASSES)
def test_chunks_of_several_blocks(name, backend, monkeypatch):
    """Less than a block, a part of the second, a chunk and a part of the next: as the plain path, and R exact."""
    monkeypatch.setattr(triton_kernels, "CHUNK", 2 * triton_kernels.BLOCK)
    parts = ((1, -1), (1, 1), (2, -1), (2, 0), (2, 1), (5, 77))
    pull = Pull([(blocks * triton_kernels.BLOCK + more, 1) for blocks, more in parts], dtype=torch.float32)
    runs = []
    for choice in ("triton", None):
        with fused.use(choice):
            params = pull.params(backend.device)
            opt = make_fused(params, name)
            pull.run(opt, params, 0, 4)
            runs.append((params, [opt.state[p] for p in params]))
        if choice:
            known = backend.norms(opt, params)
            exact = torch.stack([p.detach().double().square().sum() for p in params])
            torch.testing.assert_close(known.double(), exact, rtol=3e-7, atol=0)
            torch.autograd.graph.increment_version(params)  # so they are read again
            assert_same_bits([known], [backend.norms(opt, params)])
    assert [len(some) for some in backend.updated] == [6, 6, 6]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def forget_trials():
    for function in (triton_selfcheck.works, triton_backend._import_error):
        function.cache_clear()
    triton_selfcheck._refused.clear()


@triton_only
class TestTrial:
    """Each variant is tried when it is first used; what does not work is done without."""

    @pytest.fixture(autouse=True)
    def _first_use(self):
        forget_trials()
        yield
        forget_trials()

    @pytest.fixture
    def binds(self, monkeypatch):
        """An entry for each time that tensors are prepared for the kernels."""
        seen = []
        original = triton_backend.ChunkTable.bind
        monkeypatch.setattr(triton_backend.ChunkTable, "bind", lambda *args: (seen.append(1), original(*args))[1])
        return seen

    def train(self, backend, caplog, steps=40):
        pull = Pull(dtype=torch.float32)
        params = pull.params(backend.device)
        opt = make_fused(params)
        with caplog.at_level(logging.INFO):
            pull.run(opt, params, 0, steps)
        assert float(opt.state[params[0]]["lagmul"]) > 0

    def test_it_is_not_a_step_of_an_optimizer(self, backend, caplog, binds):
        seen = []
        handle = register_optimizer_step_post_hook(lambda opt, *_: seen.append(type(opt).__name__))
        try:
            self.train(backend, caplog, steps=3)
        finally:
            handle.remove()
        assert seen == ["AdamCPR"] * 3
        assert len(backend.updated) == 2  # the first step has no state yet
        assert len(binds) == 3 + 1  # one trial
        assert caplog.text == ""

    @pytest.mark.parametrize("default", [torch.bfloat16, torch.float64, "meta"])
    def test_other_defaults(self, default, backend, caplog):
        pull = Pull(((7, 5),), dtype=torch.float32)
        params = pull.params(backend.device)
        opt = make_fused(params)
        for p, g in zip(params, pull.grads(params, 0), strict=True):
            p.grad = g
        with changed_default(default):
            for _ in range(3):
                opt.step()
        assert len(backend.updated) == 2

    def test_kernels_that_do_not_compile(self, backend, monkeypatch, caplog, recwarn, binds):
        monkeypatch.setattr(triton_kernels, "read_chunks", Replaced(lambda *_, **__: fail("no ptxas")))
        self.train(backend, caplog)
        assert backend.updated == []
        assert "no ptxas" in caplog.text and not recwarn.list
        assert 0 < len(binds) < 10  # not in each of the 40 steps

    def test_no_triton(self, backend, monkeypatch, caplog, recwarn):
        monkeypatch.setattr(triton_backend, "kernels", lambda: fail("No module named 'triton'"))
        self.train(backend, caplog)
        assert backend.updated == []
        assert "No module named 'triton'" in caplog.text and not recwarn.list

    @pytest.mark.parametrize("kernel, argument", [("adam", 8), ("add_chunks", 1)], ids=["rates", "sums"])
    def test_kernels_that_are_wrong(self, kernel, argument, backend, monkeypatch, caplog):
        """As if a kernel read a slightly larger number."""
        original = getattr(triton_kernels, kernel)

        def wrong(*arguments, grid, **constants):
            arguments = [a * 1.01 if i == argument else a for i, a in enumerate(arguments)]
            return original[grid](*arguments, **constants)

        monkeypatch.setattr(triton_kernels, kernel, Replaced(wrong))
        self.train(backend, caplog)
        assert backend.updated == []
        assert "disagrees with torch" in caplog.text


class Replaced:
    """A kernel, launched as `kernel[grid](...)`."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.function(*arguments, grid=grid, **constants)


def fail(message):
    raise RuntimeError(message)
