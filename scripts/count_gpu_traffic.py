"""What a step does to a GPU's memory, counted where there is none: bytes a parameter, kernels and operators launched.

The GPU kernels run in Triton's interpreter, on the CPU's tensors, which tells every address that they read or write.
torch's operators are seen by a dispatch mode: each reads its arguments and writes its results once. Bounds are active.
The plain path is counted as the CPU takes it: there each tensor's R is some operators, on a GPU all of them are a few.

    python scripts/count_gpu_traffic.py [--tensors 8] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_cpr.files import user_path
from nnunet_cpr.optim import SGDCPR, AdamCPR, fused
from nnunet_cpr.optim.fused import triton_backend

SHAPE = (128, 200)  # three whole chunks and a part of one
BOUND: dict[str, Any] = {"kappa_init_method": "uniform", "kappa_init_param": 0.0, "kappa_update": 1e-3}
NESTEROV: dict[str, Any] = {"momentum": 0.99, "nesterov": True}
OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
    "AdamCPR": lambda params: AdamCPR(params, lr=1e-3, fused=True, **BOUND),
    "AdamCPR, plain path": lambda params: AdamCPR(params, lr=1e-3, fused=True, **BOUND),
    "SGD fused": lambda params: torch.optim.SGD(params, lr=1e-3, fused=True, **NESTEROV),
    "SGDCPR": lambda params: SGDCPR(params, lr=1e-3, fused=True, **NESTEROV, **BOUND),
    "SGDCPR, plain path": lambda params: SGDCPR(params, lr=1e-3, fused=True, **NESTEROV, **BOUND),
}


LAUNCH_NOTHING = {"aten.empty", "aten.scalar_tensor"}


class Traffic(TorchDispatchMode):
    """Counts operators that launch something, and the bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.operators: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        results = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "profiler" or str(func.overloadpacket) in LAUNCH_NOTHING:
            return results
        arguments = func._schema.arguments
        self.operators[str(func)] += 1
        read: dict[int, int] = {}
        for argument, value in [*zip(arguments, args, strict=False), *[(None, v) for v in (kwargs or {}).values()]]:
            sizes = {x.data_ptr(): x.nbytes for x in tree_leaves(value) if isinstance(x, torch.Tensor)}
            read |= sizes
            # Gradients count as written, but are so only for GradScaler.
            if argument is not None and argument.is_write and argument.name != "grads":
                self.bytes += sum(sizes.values())
        new = {x.data_ptr(): x.nbytes for x in tree_leaves(results) if isinstance(x, torch.Tensor)}
        self.bytes += sum(read.values()) + sum(size for place, size in new.items() if place not in read)
        return results


@contextmanager
def interpreted(traffic: Traffic) -> Iterator[None]:
    """Run the GPU kernels here, and count what they launch, load and store."""
    from triton.runtime.interpreter import interpreter_builder

    launch = triton_backend.ChunkTable._launch
    load, store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store

    def counted_launch(self: Any, name: str, *arguments: Any, **constants: Any) -> None:
        traffic.kernels[name] += 1
        with mock.patch.object(Traffic, "__torch_dispatch__", lambda _, f, t, a=(), k=None: f(*a, **(k or {}))):
            launch(self, name, *arguments, **constants)

    def counted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        values = load(pointers, mask, *rest)
        traffic.bytes += int(mask.data.sum()) * values.data.itemsize
        return values

    def counted_store(pointers: Any, values: Any, mask: Any, *rest: Any) -> Any:
        traffic.bytes += int(mask.data.sum()) * values.data.itemsize
        return store(pointers, values, mask, *rest)

    with (
        fused.use("triton"),
        mock.patch.object(triton_backend, "DEVICE_TYPE", "cpu"),
        mock.patch.object(triton_backend.ChunkTable, "_launch", counted_launch),
        mock.patch.object(interpreter_builder, "create_masked_load", counted_load),
        mock.patch.object(interpreter_builder, "create_masked_store", counted_store),
    ):
        yield


def why_not() -> str:
    """Say why the interpreter does not run here; empty if it does."""
    triton = importlib.metadata.version("triton")
    if tuple(map(int, triton.split(".")[:2])) < (3, 5) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        return f"the interpreter of Triton {triton} does not run with NumPy {np.__version__}; use an older NumPy"
    return ""


def count(name: str, tensors: int) -> Traffic:
    """Return what the fifth step of an optimizer does, all of whose tensors are regularized."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(SHAPE)) for _ in range(tensors)]
    for param in params:
        param.grad = torch.randn(SHAPE)
    optimizer, traffic = OPTIMIZERS[name](params), Traffic()
    with fused.use(None) if "plain" in name else interpreted(traffic):
        for _ in range(4):
            optimizer.step()
        traffic.kernels.clear()
        traffic.bytes = 0
        with traffic:
            optimizer.step()
    return traffic


def main() -> None:
    """Count and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=8)
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    if reason := why_not():
        parser.error(reason)
    elements = args.tensors * SHAPE[0] * SHAPE[1]
    rows = []
    print(f"{args.tensors} tensors of {SHAPE[0]} x {SHAPE[1]}, float32\n")
    print(f"{'':22}{'bytes a parameter':>18}{'kernels':>9}{'operators':>11}")
    for name in OPTIMIZERS:
        traffic = count(name, args.tensors)
        row = {"optimizer": name, "bytes_a_parameter": round(traffic.bytes / elements, 3),
               "kernels": dict(traffic.kernels), "operators": dict(traffic.operators)}  # fmt: skip
        rows.append(row)
        print(f"{name:22}{row['bytes_a_parameter']:18.2f}{traffic.kernels.total():9}{traffic.operators.total():11}")
    if args.json:
        args.json.write_text(json.dumps({"tensors": args.tensors, "shape": SHAPE, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
