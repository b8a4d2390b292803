"""What CPR and its rivals cost in a whole training step, over fused AdamW: forward, backward, clipping, optimizer.

Each pair of a network and an optimizer is measured in a process of its own, against AdamW on the same weights and
gradients. A round is a forward and a backward pass, then steps of AdamW, of the optimizer, and of AdamW again. A pass
takes longer and varies by more than the optimizers differ, so their difference is measured alone and divided by the
whole step with AdamW. The first step of each turn is not counted, because the weights are then another's work. The
difference between AdamW's two turns says what noise there is; what is smaller is not a result.

The paper's own figures stand beside ours.

    python scripts/benchmark_training_steps.py GPT2s DeiT-S nnU-Net [--optimizers adamcpr awd ...] [--batch 1]
    python scripts/benchmark_training_steps.py GPT2s GPT2m GPT2l GPT2xl --device cuda --precision bf16 --batch largest

A batch is "largest" on a GPU only, where it is doubled until memory ends. That has not been tried yet: no GPU was at
hand.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_optimizers import BOUNDS, LR
from benchmarks.agreement import quartiles
from benchmarks.formatting import largest_noise, show_overhead
from benchmarks.machine import describe_machine
from benchmarks.networks import NETWORKS, Network
from benchmarks.paper import RIVALS, ROW, paper_overhead
from benchmarks.processes import measured
from harness.optimizers import build_optimizer
from harness.parsing import make
from harness.settings import OPTIMIZERS
from train_gpt2 import GPT2Settings

from nnunet_cpr.files import user_path, write_json
from nnunet_cpr.optim import AdamCPR

COUNTED_STEPS = 4
CLIP_NORM = 1.0
CONTESTANTS = [name for name in OPTIMIZERS if name != "adamw" and "sgd" not in name]
Row = dict[str, Any]


def build(name: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer at a learning rate that hardly moves the weights; AdamCPR with its bounds active."""
    if name == "adamcpr":
        return AdamCPR(model, lr=LR, **BOUNDS["bounds active"])
    return build_optimizer(model, make(GPT2Settings, {"optimizer": name, "lr": LR}))


def measure(network: str, optimizer: str, args: argparse.Namespace, batch: int, result: Path) -> None:
    """Write what one optimizer costs in one network."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    built = NETWORKS[network](device)
    opponent, contestant = build("adamw", built.model), build(optimizer, built.model)
    seconds: dict[str, list[float]] = {"pass": [], "adamw": [], optimizer: []}
    noise = []
    for turn in range(args.rounds + 1):  # the first is the warm-up
        begun = clock(device)
        forward_backward(built, args.precision, device, batch)
        passed = clock(device) - begun
        first, ours, last = (steps(one, device) for one in (opponent, contestant, opponent))
        built.model.zero_grad()
        if turn:
            seconds["pass"].append(passed)
            seconds["adamw"] += [first, last]
            seconds[optimizer].append(ours)
            noise.append(last - first)
    whole = quartiles(seconds["pass"])[1] + quartiles(seconds["adamw"])[1]
    differences = [
        100 * (ours - (first + last) / 2) / whole
        for ours, first, last in zip(seconds[optimizer], seconds["adamw"][::2], seconds["adamw"][1::2], strict=True)
    ]
    row = {
        "network": network, "optimizer": optimizer, "batch": batch,
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "pass_ms": 1e3 * quartiles(seconds["pass"])[1], "adamw_ms": 1e3 * quartiles(seconds["adamw"])[1],
        "optimizer_ms": 1e3 * quartiles(seconds[optimizer])[1], "percent_over_adamw": quartiles(differences),
        "percent_adamw_over_itself": quartiles([100 * one / whole for one in noise]),
    }  # fmt: skip
    result.write_text(json.dumps(row))


def forward_backward(network: Network, precision: str, device: torch.device, batch: int) -> None:
    """Make gradients."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = network.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.model.parameters(), CLIP_NORM)


def steps(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Return the mean seconds of a step, after one that is not counted."""
    optimizer.step()
    begun = clock(device)
    for _ in range(COUNTED_STEPS):
        optimizer.step()
    return (clock(device) - begun) / COUNTED_STEPS


def clock(device: torch.device) -> float:
    """Return the time in seconds once the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def find_largest_batch(network: str, optimizer: str, args: argparse.Namespace, result: Path) -> None:
    """Write the largest power of two whose step fits the GPU beside AdamW's and another optimizer's states; 0: none."""
    device, batch = torch.device(args.device), 0
    try:
        built = NETWORKS[network](device)
        optimizers = [build(name, built.model) for name in ("adamw", optimizer)]
        while True:
            forward_backward(built, args.precision, device, max(1, 2 * batch))
            for one in optimizers:
                one.step()
            built.model.zero_grad()
            batch = max(1, 2 * batch)
    except torch.OutOfMemoryError:
        result.write_text(json.dumps(batch))


def largest_batch(network: str, args: argparse.Namespace, file: Path) -> int:
    """Return the largest batch that fits with each of the optimizers."""
    found: list[int] = []
    for optimizer in args.optimizers:
        measured(find_largest_batch, network, optimizer, args, file)
        found.append(json.loads(file.read_text()))
    return min(found)


def print_table(rows: list[Row]) -> None:
    """Print a line for each optimizer, a column for each network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    print(f"{'over AdamW, of a whole step':30}" + "".join(f"{name:>26}" for name in networks))
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        cells = {row["network"]: row for row in rows if row["optimizer"] == name}
        shown = [show_overhead(cells[network]) if network in cells else "" for network in networks]
        print(f"{name:30}" + "".join(f"{cell:>26}" for cell in shown))
    firsts = [next(row for row in rows if row["network"] == network) for network in networks]
    print(f"{ROW:30}" + "".join(f"{paper_overhead(row):>26}" for row in firsts))
    print(
        f"{'AdamW over itself, at most':30}"
        + "".join(f"{largest_noise(rows, network):>24.2f} %" for network in networks)
    )
    print(RIVALS)


def main() -> int:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=NETWORKS, metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--optimizers", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, metavar="NAME")
    parser.add_argument("--batch", default="1", help="examples in a step, or largest (default: 1)")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    if args.batch == "largest" and args.device == "cpu":
        parser.error("--batch largest is for a GPU; name a number")
    shown = {key: getattr(args, key) for key in ("rounds", "threads", "precision")}
    result = describe_machine(torch.device(args.device)) | shown
    print(", ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "row.json")
        for network in args.networks:
            batch = largest_batch(network, args, file) if args.batch == "largest" else int(args.batch)
            if not batch:
                print(f"{network}: not even one example fits", flush=True)
                continue
            for optimizer in args.optimizers:
                memory = measured(measure, network, optimizer, args, batch, file).gib
                rows.append({**json.loads(file.read_text()), "gib": memory, "largest": args.batch == "largest"})
                print(f"{network}, batch {batch}, {optimizer}: {show_overhead(rows[-1])}", flush=True)
                if args.json:
                    write_json(args.json, result | {"rows": rows})
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
