"""Everything to measure on one CUDA GPU, in one command of at most 10 minutes, with JSON at the end.

    python scripts/benchmarks/gpu.py --out docs/results/gpu

Four stages, each in a process of its own with a time limit, so that one that fails or hangs costs only its share:

1. tests: the tests of the Triton kernels, of host reads and of GradScaler, on the GPU.
2. sync: steps of AdamCPR and SGDCPR, with torch's operators and with the Triton kernels, while torch raises an error
   where the host waits for the device.
3. training: nnU-Net's 3d_fullres network, loss, autocast, GradScaler and clipping: the time of a step with SGD fused,
   SGDCPR and SGDCPR with the Triton kernels, and whether the last two have the same weights.
4. steps: `benchmark_optimizers.py`, against torch's fused optimizers and pytorch-cpr. What it prints is in steps.txt.

`--device cpu` rehearses all four on small networks, the Triton kernels in Triton's interpreter. Its times mean nothing.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
SECONDS = {"tests": 240, "sync": 60, "training": 120, "steps": 180}
TESTS = (
    "test_fused_backends.py",
    "test_fused_coverage.py",
    "test_fused_norms.py",
    "test_fused_memory.py",
    "test_triton_kernels.py",
    "test_no_host_reads.py",
    "test_grad_scaler.py",
    "test_fused_default.py",
)
NESTEROV: dict[str, Any] = {"lr": 0.01, "momentum": 0.99, "nesterov": True}
ACTIVE: dict[str, Any] = {"kappa_init_method": "dependent", "kappa_init_param": 0.99}
SMALL = [(64, 32), (64,), (8, 4, 3, 3, 3)]
"""The tensors of a rehearsed optimizer step."""


def run_tests(device: str) -> dict[str, Any]:
    """Run the optimizers' tests that concern GPUs; on a CPU one test for each file."""
    files = [f"tests/optim/{name}" for name in TESTS]
    chosen = [] if device == "cuda" else ["-k", "step_after_many or reads or nnunets"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, *chosen]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = process.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    passed = process.returncode == 0
    found = {"passed": passed, "summary": lines[-1] if lines else process.stderr[-500:], "failed": failed}
    return found if passed else {**found, "error": "tests failed"}


def watch_waiting(device: str) -> dict[str, Any]:
    """Do steps while torch forbids to wait for the device; return what each way of doing them says."""
    import torch

    from nnunet_cpr.optim import SGDCPR, AdamCPR

    answers = {}
    for cls, options in ((AdamCPR, {"lr": 1e-3}), (SGDCPR, NESTEROV)):
        for backend in (None, "triton"):
            params = [torch.nn.Parameter(torch.randn(64, n, device=device)) for n in (32, 64, 128)]
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer: Any = cls(params, **options, **ACTIVE)
            with _kernels(backend, device):
                optimizer.step()
                optimizer.step()
                try:
                    _forbid_waiting(device, "error")
                    for _ in range(20):
                        optimizer.step()
                    answer = "no synchronization"
                except RuntimeError as error:
                    answer = f"{type(error).__name__}: {error}"
                finally:
                    _forbid_waiting(device, "default")
            answers[f"{cls.__name__}, {backend or 'torch'}"] = answer
    return answers


def train_nnunet(device: str) -> dict[str, Any]:
    """Time training steps as nnU-Net's trainer does them, and compare the weights of both ways of SGDCPR."""
    import torch
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    from nnunet_cpr.optim import SGDCPR

    size, batch = ((128, 128, 128), 2) if device == "cuda" else ((16, 16, 16), 1)
    loss = DC_and_CE_loss({"batch_dice": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 1, *size, generator=generator).to(device)
    target = (torch.rand(batch, 1, *size, generator=generator) > 0.5).long().to(device)

    def train(make: Callable[[Any], Any], backend: str | None) -> tuple[list[float], list[Any]]:
        torch.manual_seed(0)
        network = _network(device)
        optimizer, scaler = make(network), torch.amp.GradScaler(device, enabled=device == "cuda")
        seconds = []
        with _kernels(backend, device):
            for _ in range(25 if device == "cuda" else 4):
                start = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device, enabled=device == "cuda"):
                    value = loss(network(image), target)
                scaler.scale(value).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
                scaler.step(optimizer)
                scaler.update()
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        return seconds[3:], [p.detach().float().cpu() for p in network.parameters()]

    def fused_sgd(network: Any) -> Any:
        return torch.optim.SGD(network.parameters(), fused=True, **NESTEROV)

    def cpr(network: Any) -> Any:
        return SGDCPR(network, **NESTEROV, **ACTIVE)

    runs = {"SGD fused": train(fused_sgd, None), "SGDCPR": train(cpr, None), "SGDCPR, Triton": train(cpr, "triton")}
    pairs = zip(runs["SGDCPR"][1], runs["SGDCPR, Triton"][1], strict=True)
    milliseconds = {name: [round(1e3 * s, 3) for s in seconds] for name, (seconds, _) in runs.items()}
    return {
        "milliseconds": milliseconds,
        "median": {name: statistics.median(values) for name, values in milliseconds.items()},
        "largest difference of weights": max(float((a - b).abs().max()) for a, b in pairs),
        "patch": [batch, *size],
    }


def time_steps(device: str, out: Path) -> dict[str, Any]:
    """Run the benchmark of optimizer steps; its own file holds the numbers.

    A rehearsal goes all the way, so that it also takes timings on a busy machine for a result.
    """
    sys.path.insert(0, str(ROOT / "scripts"))
    import benchmark_optimizers
    import torch

    arguments = ["--device", device, "--json", str(out)]
    printed = out / "steps.txt"
    # Line by line, so that what was printed before a time-out is there.
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(printed.open("w", buffering=1))))
        if device == "cpu":
            arguments += ["--rounds", "10", "--threads", "1"]
            small = {"nnU-Net": lambda: [torch.Size(shape) for shape in SMALL]}
            stack.enter_context(mock.patch.object(benchmark_optimizers, "MODELS", small))
            stack.enter_context(mock.patch.object(benchmark_optimizers, "find_doubts", lambda *_: []))
        code = benchmark_optimizers.main(arguments)
    found = {"code": code, "printed": printed.read_text().splitlines()}
    return found if not code else {**found, "error": "not a result; steps.txt says why"}


def _network(device: str) -> Any:
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    features = (32, 64, 128, 256, 320, 320) if device == "cuda" else (4, 8)
    strides = (1,) + (2,) * (len(features) - 1)
    network = PlainConvUNet(
        1, len(features), features, torch.nn.Conv3d, 3, strides, 2, 2, [2] * (len(features) - 1), conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=torch.nn.LeakyReLU,
    )  # fmt: skip
    return network.to(device)


def _kernels(backend: str | None, device: str) -> AbstractContextManager[Any]:
    """Allow this backend only. On a CPU the Triton kernels run in the interpreter."""
    from nnunet_cpr.optim import fused
    from nnunet_cpr.optim.fused import triton_backend

    stack = ExitStack()
    stack.enter_context(fused.use(backend))
    rehearsed = backend == "triton" and device == "cpu"
    stack.enter_context(mock.patch.object(triton_backend, "DEVICE_TYPE", "cpu") if rehearsed else nullcontext())
    return stack


def run_limited(
    command: Sequence[str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed. After the time limit it is killed with all processes that it started.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _forbid_waiting(device: str, mode: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.set_sync_debug_mode(mode)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and write what they return; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "gpu", help="folder for the JSON files")
    parser.add_argument("--stages", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--only", choices=SECONDS, help=argparse.SUPPRESS)  # one stage, in its own process
    args = parser.parse_args(arguments)
    if args.only:
        stages: dict[str, Callable[[], Any]] = {
            "tests": lambda: run_tests(args.device),
            "sync": lambda: watch_waiting(args.device),
            "training": lambda: train_nnunet(args.device),
            "steps": lambda: time_steps(args.device, args.out),
        }
        print(json.dumps(stages[args.only]()))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if args.device == "cpu" else {})}
    for stage in args.stages:
        start = time.monotonic()
        command = [sys.executable, __file__, "--only", stage, "--device", args.device, "--out", str(args.out)]
        try:
            process = run_limited(command, environment, SECONDS[stage])
            lines = process.stdout.splitlines()
            found = json.loads(lines[-1]) if lines and not process.returncode else {"error": process.stderr[-3000:]}
        except subprocess.TimeoutExpired:
            found = {"error": f"took more than {SECONDS[stage]} s"}
        results[stage] = {"seconds": round(time.monotonic() - start, 1), **found}
        # After each stage: what was measured is not lost with the machine.
        (args.out / f"{args.device}.json").write_text(json.dumps(results, indent=1) + "\n")
        print(stage, json.dumps(results[stage])[:600], flush=True)
    return int(any("error" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
