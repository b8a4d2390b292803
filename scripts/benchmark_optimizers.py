"""What a step of CPR costs: times optimizers in turn, in one process, on the same tensors.

Prints the median time of a step, its spread, and the median ratio to the step of torch.optim.AdamW(fused=True) and, for
the SGDs, of torch.optim.SGD(fused=True) in the same round: a shared machine may be slower in the next one. Between two
steps a large buffer is written, so that no contestant finds its tensors in the cache. Each contestant has weights of
its own, as in a training; gradients are shared. On CPU, "torch alone" is with active bounds and without the C kernel,
as where there is no compiler.

    python scripts/benchmark_optimizers.py [--device cuda] [--threads 2] [--rounds 30] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from nnunet_cpr.files import user_path
from nnunet_cpr.optim import SGDCPR, AdamCPR, fused

# Bounds that are never set, set but never reached, and violated at every step: mu shrinks the weights by some 1e-4 in
# all, and yet every step's factor differs from 1 in float32.
BOUNDS = {
    "unset": {"kappa_init_method": "warm_start", "kappa_init_param": 10**9},
    "inactive": {"kappa_init_method": "uniform", "kappa_init_param": 1e30},
    "active": {"kappa_init_method": "uniform", "kappa_init_param": 0.0, "kappa_update": 1e-3},
}
LR = 1e-9
# What ends in this is timed as it is where no C compiler is to be had.
ALONE = "torch alone"


def nnunet_shapes() -> list[torch.Size]:
    """Return the parameter shapes of nnU-Net's 3d_fullres PlainConvUNet: 6 stages, features 32 to 320, 31 M."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network = PlainConvUNet(
        1, 6, (32, 64, 128, 256, 320, 320), torch.nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, 2, 2, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, deep_supervision=True,
    )  # fmt: skip
    return [p.shape for p in network.parameters()]


def gpt2_shapes(width: int = 768, layers: int = 12) -> list[torch.Size]:
    """Return the parameter shapes of GPT2s (124 M): tied embedding, positions, blocks with biases."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [torch.Size(s) for s in [(50257, width), (1024, width), *block * layers, (width,), (width,)]]


def contestants(shapes: list[torch.Size], device: torch.device) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers by name. Those of pytorch-cpr are left out where it is not installed."""
    start = [torch.randn(shape, device=device) * 0.02 for shape in shapes]
    gradients = [torch.randn_like(x) for x in start]

    def params() -> list[Tensor]:
        own = [torch.nn.Parameter(x.clone()) for x in start]
        for param, gradient in zip(own, gradients, strict=True):
            param.grad = gradient
        return own

    adam, sgd = torch.optim.AdamW, torch.optim.SGD
    nesterov = {"momentum": 0.99, "nesterov": True}
    active = BOUNDS["active"]
    entries = {
        "AdamW fused": adam(params(), lr=LR, fused=True),
        "AdamW foreach": adam(params(), lr=LR, foreach=True),
        **{f"AdamCPR {name}": AdamCPR(params(), lr=LR, fused=True, **bound) for name, bound in BOUNDS.items()},
        "SGD fused": sgd(params(), lr=LR, fused=True, **nesterov),
        "SGD foreach": sgd(params(), lr=LR, foreach=True, **nesterov),
        **{
            f"SGDCPR {name}": SGDCPR(params(), lr=LR, fused=True, **nesterov, **bound) for name, bound in BOUNDS.items()
        },
    }
    if device.type == "cpu":
        entries[f"AdamCPR {ALONE}"] = AdamCPR(params(), lr=LR, fused=True, **active)
        entries[f"SGDCPR {ALONE}"] = SGDCPR(params(), lr=LR, fused=True, **nesterov, **active)
    try:
        from pytorch_cpr import AdamCPR as PeerAdamCPR
    except ImportError:
        print("pytorch-cpr is not installed, so it is left out: pip install pytorch-cpr==0.3.1")
    else:
        own = params()
        groups = [
            {"params": [p for p in own if p.ndim >= 2], "regularize": True},
            {"params": [p for p in own if p.ndim < 2], "regularize": False},
        ]
        entries["pytorch-cpr active"] = PeerAdamCPR(groups, lr=LR, foreach=True, **active)
    return entries


def measure(optimizers: dict[str, torch.optim.Optimizer], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of `rounds` steps of each optimizer, taken in turn after three steps of warm-up."""
    flush = torch.zeros(64 * 2**20, device=device)
    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(rounds + 3):
        for name, optimizer in optimizers.items():
            with fused.use(None) if name.endswith(ALONE) else nullcontext():
                flush.add_(1)
                synchronize()
                start = time.perf_counter()
                optimizer.step()
                synchronize()
                if turn >= 3:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(values: list[float], others: list[float]) -> float:
    """Return the median over the rounds of one contestant's time over another's."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", nargs="+", choices=["nnunet", "gpt2s"], default=["nnunet", "gpt2s"])
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    result = {"device": where, "threads": args.threads, "torch": torch.__version__, "rounds": args.rounds, "rows": []}
    print(f"{where}, {args.threads} threads, torch {torch.__version__}, {args.rounds} rounds")
    for model in args.models:
        torch.manual_seed(0)
        shapes = nnunet_shapes() if model == "nnunet" else gpt2_shapes()
        total = sum(shape.numel() for shape in shapes)
        seconds = measure(contestants(shapes, device), device, args.rounds)
        print(f"\n{model}: {total / 1e6:.1f} M parameters in {len(shapes)} tensors")
        print(f"{'':20}{'median ms':>10}{'min':>8}{'max':>8}{'/ AdamW fused':>15}{'/ SGD fused':>13}")
        for name, values in seconds.items():
            row = {
                "model": model, "parameters": total, "optimizer": name, "median_ms": statistics.median(values) * 1e3,
                "min_ms": min(values) * 1e3, "max_ms": max(values) * 1e3,
                "ratio_adamw_fused": median_ratio(values, seconds["AdamW fused"]),
                "ratio_sgd_fused": median_ratio(values, seconds["SGD fused"]),
            }  # fmt: skip
            result["rows"].append(row)
            print(
                f"{name:20}{row['median_ms']:10.1f}{row['min_ms']:8.1f}{row['max_ms']:8.1f}"
                f"{row['ratio_adamw_fused']:15.2f}{row['ratio_sgd_fused']:13.2f}"
            )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
