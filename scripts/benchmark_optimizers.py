"""What a step of CPR costs: times optimizers in turn, in one process, on the same gradients.

Contestants are constructed as README shows them, so they take the fastest way that is there. Beside them: torch's AdamW
and SGD by default and with `fused=True`, the plain path (R, constraint and torch's fused step one after the other; on a
GPU the Triton kernels, which are not the default there), and pytorch-cpr if it is installed.

Prints processor, caches, compiler, and which way each contestant took in a step of its warm-up, as counted there; then
each one's time and its ratio to the fused optimizer of torch in the same round: median and quartiles. Between two steps
a buffer twice as large as the caches is written, so that no contestant finds its tensors there. Each has weights of its
own, as in a training.

Each round begins and ends with torch's fused optimizer. Where it does not agree with itself, or other processes take
more than a twentieth of the processors' time, the timings are not a result: their ratios are not printed, no file is
written, and the exit code is 1. benchmarks/agreement.py says how that is decided. Such a contest is held again, up to
ten times.

    python scripts/benchmark_optimizers.py [--device cuda] [--threads 1 2] [--rounds 30] [--json [FOLDER]]

`python scripts/step_cost_tables.py` puts the files of all processors into docs/reference/step-cost.md.
"""

import argparse
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from benchmarks.agreement import find_doubts, quartiles, read_clocks, share_of_others
from benchmarks.formatting import show_caches, show_span
from benchmarks.machine import describe_machine, file_name
from benchmarks.networks import build_nnunet
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_cpr.files import user_path, write_json
from nnunet_cpr.optim import SGDCPR, AdamCPR, fused

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "step_cost"
# Bounds that are never set, set but never reached, and violated at every step: mu shrinks the weights by some 1e-4 in
# all, and yet every step's factor differs from 1 in float32.
BOUNDS: dict[str, dict[str, Any]] = {
    "warm start": {"kappa_init_method": "warm_start", "kappa_init_param": 10**9},
    "bounds not reached": {"kappa_init_method": "uniform", "kappa_init_param": 1e30},
    "bounds active": {"kappa_init_method": "uniform", "kappa_init_param": 0.0, "kappa_update": 1e-3},
}
LR = 1e-9
TRIES = 10
"""How often a contest is held until it is a result. Only the opponent's agreement with itself decides that."""
# The other way, by device, and the backend that it allows: what a contestant's name ends with says so.
OTHER_WAYS = {"cpu": ("no kernel", None), "cuda": ("Triton kernels", "triton")}
BACKENDS = {"c": "C kernel", "triton": "Triton kernels"}


class Family(NamedTuple):
    """Optimizers with the same update, and what they are constructed with beside lr."""

    torchs: type[Any]
    ours: type[Any]
    options: dict[str, Any]


FAMILIES = (
    Family(torch.optim.AdamW, AdamCPR, {}),
    Family(torch.optim.SGD, SGDCPR, {"momentum": 0.99, "nesterov": True}),
)


class Timings(NamedTuple):
    """What a contest has measured."""

    seconds: dict[str, list[float]]
    """By contestant, a time for each round; the opponent first."""
    again: list[float]
    """The opponent's times at the end of each round."""
    ways: dict[str, str]
    others: float | None
    """The share of the processors' time that other processes took."""

    @property
    def opponent(self) -> str:
        """The contestant that begins and ends each round."""
        return next(iter(self.seconds))


def nnunet_shapes() -> list[torch.Size]:
    """Return the parameter shapes of nnU-Net's 3d_fullres PlainConvUNet: 6 stages, features 32 to 320, 31 M."""
    return [p.shape for p in build_nnunet().parameters()]


def gpt2_shapes(width: int = 768, layers: int = 12) -> list[torch.Size]:
    """Return the parameter shapes of GPT2s (124 M): tied embedding, positions, blocks with biases."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [torch.Size(s) for s in [(50257, width), (1024, width), *block * layers, (width,), (width,)]]


MODELS: dict[str, Callable[[], list[torch.Size]]] = {"nnU-Net": nnunet_shapes, "GPT2s": gpt2_shapes}


def contestants(family: Family, shapes: Sequence[torch.Size], device: torch.device) -> dict[str, Optimizer]:
    """Return the optimizers by name, the opponent first. pytorch-cpr's is left out where it is not installed."""
    start = [torch.randn(shape, device=device) * 0.02 for shape in shapes]
    gradients = [torch.randn_like(x) for x in start]

    def params() -> list[Tensor]:
        own: list[Tensor] = [torch.nn.Parameter(x.clone()) for x in start]
        for param, gradient in zip(own, gradients, strict=True):
            param.grad = gradient
        return own

    torchs, ours, options = family
    active, other_way = BOUNDS["bounds active"], OTHER_WAYS[device.type][0]
    entries = {
        f"{torchs.__name__} fused": torchs(params(), lr=LR, fused=True, **options),
        torchs.__name__: torchs(params(), lr=LR, **options),
        **{f"{ours.__name__}, {name}": ours(params(), lr=LR, **options, **bound) for name, bound in BOUNDS.items()},
        f"{ours.__name__}, bounds active, {other_way}": ours(params(), lr=LR, **options, **active),
    }
    if ours is AdamCPR and (peer := _pytorch_cpr()):
        own = params()
        groups = [
            {"params": [p for p in own if p.ndim >= 2], "regularize": True},
            {"params": [p for p in own if p.ndim < 2], "regularize": False},
        ]
        entries["pytorch-cpr, bounds active"] = peer(groups, lr=LR, **active)
    return entries


@functools.cache
def _pytorch_cpr() -> Any:
    try:
        from pytorch_cpr import AdamCPR as PytorchCPR
    except ImportError:
        print("pytorch-cpr is not installed, so it is left out: pip install pytorch-cpr==0.3.1")
        return None
    return PytorchCPR


def allow_kernels(name: str) -> AbstractContextManager[None]:
    """Allow the kernels that a contestant of this name is to take."""
    for other_way, backend in OTHER_WAYS.values():
        if name.endswith(other_way):
            return fused.use(backend)
    return nullcontext()


class _Operators(TorchDispatchMode):
    """Counts torch's operators: the fused ones, and those that change one tensor after the other."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.fused = self.single = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operator and run it."""
        name = func.overloadpacket.__name__
        self.fused += name.startswith("_fused_")
        self.single += func._schema.is_mutable and not name.startswith(("_fused_", "_foreach_"))
        return func(*args, **(kwargs or {}))


def observe_step(optimizer: Optimizer) -> str:
    """Do a step and return which way it took: which kernels updated tensors, and how torch updated the others."""
    by_kernels: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, backend in fused.BACKENDS.items():

            def counted(*args: Any, _name: str = name, _update: Any = backend.shrink_and_update) -> Sequence[int]:
                updated: Sequence[int] = _update(*args)
                by_kernels[BACKENDS[_name]] += len(updated)
                return updated

            stack.enter_context(mock.patch.object(backend, "shrink_and_update", counted))
        operators = stack.enter_context(_Operators())
        optimizer.step()
    ways = [name for name, updated in by_kernels.items() if updated]
    by_torch = sum(len(group["params"]) for group in optimizer.param_groups) - by_kernels.total()
    if by_torch > 0:
        loop = operators.single >= by_torch  # foreach changes step counts by one operator for all
        ways.append("torch fused" if operators.fused else "torch loop" if loop else "torch foreach")
    return ", ".join(ways)


def measure(optimizers: dict[str, Optimizer], device: torch.device, rounds: int, buffer_bytes: int) -> Timings:
    """Time steps of the optimizers in turn, after three steps of warm-up; the first one ends each round, too."""
    buffer = torch.zeros(buffer_bytes // 4, device=device)
    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    ways = {}
    for name, optimizer in optimizers.items():
        with allow_kernels(name):
            optimizer.step()
            optimizer.step()
            ways[name] = observe_step(optimizer)
    turns = [*optimizers, next(iter(optimizers))]
    seconds: list[list[float]] = [[] for _ in turns]
    before = read_clocks()
    for _ in range(rounds):
        for name, its_seconds in zip(turns, seconds, strict=True):
            with allow_kernels(name):
                buffer.add_(1)
                synchronize()
                start = time.perf_counter()
                optimizers[name].step()
                synchronize()
                its_seconds.append(time.perf_counter() - start)
    others = share_of_others(before, read_clocks(), os.cpu_count() or 1)
    return Timings(dict(zip(optimizers, seconds, strict=False)), seconds[-1], ways, others)


def summarize(timings: Timings) -> list[dict[str, Any]]:
    """Return a row for each contestant; the first one's ratio is that to itself, at the end of the round."""
    first = timings.seconds[timings.opponent]
    # The mean of both, so that it does not matter where in a round that grows slower somebody's turn is.
    theirs = [(a + b) / 2 for a, b in zip(first, timings.again, strict=True)]
    rows = []
    for name, values in timings.seconds.items():
        pairs = zip(timings.again, first, strict=True) if name == timings.opponent else zip(values, theirs, strict=True)
        lower, median, upper = quartiles(values)
        lower_ratio, ratio, upper_ratio = quartiles([a / b for a, b in pairs])
        rows.append({
            "optimizer": name, "way": timings.ways[name], "n": len(values), "median_ms": 1e3 * median,
            "quartiles_ms": [1e3 * lower, 1e3 * upper], "ratio": ratio, "ratio_quartiles": [lower_ratio, upper_ratio],
        })  # fmt: skip
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of one contest."""
    against = f"/ {rows[0]['optimizer']}"
    print(f"{'':38}{'median ms':>9}{'quartiles':>17}{against:>15}{'quartiles':>14}  way")
    for row in rows:
        times, ratios = show_span(row["quartiles_ms"], 1), show_span(row["ratio_quartiles"], 2)
        print(f"{row['optimizer']:38}{row['median_ms']:9.1f}{times:>17}{row['ratio']:15.2f}{ratios:>14}  {row['way']}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=OTHER_WAYS, default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and 2, or what there is; 1 for a GPU")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--json", type=user_path, metavar="FOLDER", nargs="?", const=RESULTS,
        help="write the result into a file of this folder that is called after the processor (default: %(const)s)",
    )  # fmt: skip
    return parser


def hold_contest(model: str, family: Family, threads: int, device: torch.device, rounds: int, buffer_bytes: int) -> Any:
    """Time a family's contestants and print their table; return it for the file, or None if it is not a result."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shapes = MODELS[model]()
    total = sum(shape.numel() for shape in shapes)
    timings = measure(contestants(family, shapes, device), device, rounds, buffer_bytes)
    of_what = f"{total / 1e6:.1f} M parameters in {len(shapes)} tensors"
    print(f"\n{model}, {of_what}, threads: {threads}, against {timings.opponent}", flush=True)
    again = zip(timings.again, timings.seconds[timings.opponent], strict=True)
    doubts = find_doubts([last / first for last, first in again], timings.others)
    for doubt in doubts:
        print(f"not a result: {doubt}", flush=True)
    if doubts:
        return None
    rows = summarize(timings)
    print_rows(rows)
    return {
        "model": model, "parameters": total, "tensors": len(shapes), "threads": threads,
        "opponent": timings.opponent, "others": timings.others, "rows": rows,
    }  # fmt: skip


def hold_until_agreed(*arguments: Any) -> Any:
    """Hold a contest again while it is not a result, TRIES times at most; return it, or None."""
    for _ in range(TRIES):
        if contest := hold_contest(*arguments):
            return contest
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, see the module's docstring; return the exit code."""
    args = build_parser().parse_args(arguments)
    device = torch.device(args.device)
    machine = describe_machine(device)
    threads = args.threads or ([1, 2] if device.type == "cpu" and machine["processors"] > 1 else [1])
    print("\n".join(f"{key}: {show_caches(value) if key == 'caches' else value}" for key, value in machine.items()))
    buffer_bytes = max(2**28, 2 * max(machine["caches"].values(), default=0))
    contests = [
        hold_until_agreed(model, family, count, device, args.rounds, buffer_bytes)
        for model in args.models
        for count in threads
        for family in FAMILIES
    ]
    refused = contests.count(None)
    if refused:
        print(f"\n{refused} of {len(contests)} contests are not a result; repeat this when the machine is idle")
        return 1
    if args.json:
        args.json.mkdir(parents=True, exist_ok=True)
        path = args.json / file_name(machine["processor"])
        write_json(path, {**machine, "rounds": args.rounds, "contests": contests})
        print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
