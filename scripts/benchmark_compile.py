"""What compiling costs: seconds until a kernel is there, and how often torch.compile starts again in 1,000 steps.

torch.compile(optimizer.step) is done for AdamCPR, SGDCPR and torch's Adam and SGD beside them, on a small model, with
inductor: with a learning rate that stays, with one that changes in every step as a number, and as a tensor. A bound is
set on the way. "first steps": the time of the first three, in which everything is compiled but for what changes later.

    python scripts/benchmark_compile.py [--steps 1000] [--json FILE]
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.machine import describe_machine
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from nnunet_cpr.files import user_path, write_json
from nnunet_cpr.optim import SGDCPR, AdamCPR
from nnunet_cpr.optim.fused import c_build

BOUND = {"kappa_init_method": "warm_start", "kappa_init_param": 10}
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {}),
    "AdamCPR": (AdamCPR, BOUND),
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "SGDCPR": (SGDCPR, {"momentum": 0.9, **BOUND}),
}
RATES = ("constant number", "changing number", "changing tensor")


def compile_c_kernel() -> float | None:
    """Return the seconds until the C kernel is there, or None without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = time.perf_counter()
        kernel = c_build.kernels()
        return time.perf_counter() - start if kernel else None


def compile_step(name: str, rate: str, steps: int) -> dict[str, Any]:
    """Train with a compiled step; return the seconds of its beginning and the graphs compiled until then and later."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 3))
    optimizer_class, options = OPTIMIZERS[name]
    lr = torch.tensor(1e-3) if rate == "changing tensor" else 1e-3
    optimizer = optimizer_class(model if "CPR" in name else model.parameters(), lr=lr, **options)
    step: Callable[[], object] = torch.compile(optimizer.step)
    x = torch.randn(8, 20)
    seconds, graphs = [], []
    for number in range(steps):
        value = 1e-3 if rate == "constant number" else 1e-3 * (1 - number / steps)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        optimizer.zero_grad()
        model(x).square().mean().backward()
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
        graphs.append(counters["stats"]["unique_graphs"])
    return {
        "optimizer": name, "lr": rate, "first_steps_s": sum(seconds[:3]), "graphs_first_steps": graphs[2],
        "graphs": graphs[-1], "median_step_us": sorted(seconds)[steps // 2] * 1e6,
    }  # fmt: skip


def compile_case(case: tuple[str, str, int]) -> dict[str, Any]:
    """Do :func:`compile_step` where nothing has been compiled before."""
    with fresh_cache():
        return compile_step(*case)


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    seconds = compile_c_kernel()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("C kernel: " + (f"{seconds:.2f} s" if seconds else "no compiler"))
    print(f"{'':10}{'lr':18}{'first steps':>12}{'graphs then':>13}{'after ' + str(args.steps):>13}{'median step':>13}")
    rows = []
    cases = [(name, rate, args.steps) for rate in RATES for name in OPTIMIZERS]
    # Each in a process of its own: torch remembers, beyond its reset, which numbers it has seen change.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(compile_case, cases, chunksize=1):
            rows.append(row)
            print(
                f"{row['optimizer']:10}{row['lr']:18}{row['first_steps_s']:10.1f} s{row['graphs_first_steps']:13}"
                f"{row['graphs']:13}{row['median_step_us']:10.0f} us",
                flush=True,
            )
    if args.json:
        where = {**describe_machine(torch.device("cpu")), "threads": torch.get_num_threads()}
        write_json(args.json, {**where, "c_kernel_s": seconds, "steps": args.steps, "rows": rows})


if __name__ == "__main__":
    main()
