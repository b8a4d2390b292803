"""What AdamCPR costs in a whole training step of GPT2: forward, backward, clipping, optimizer, over fused AdamW.

The optimizers take turns on one model. A round's forward and backward passes vary more than the optimizers differ, so
besides the ratio of whole steps it prints the optimizers' own time over AdamW's whole step, which is steadier: each
pass is followed by several optimizer steps. The first is not counted, because the weights are then another's work. The
paper's Table I.2 has +5.76 % for GPT2s at batch 1 on A100s. On a machine that is busy with other work, --clock cpu
counts the processor's time of all threads instead of the wall clock's.

    python scripts/benchmark_gpt2_step.py [--size s] [--batch 1] [--context 1024] [--rounds 10] [--json FILE]
"""

import argparse
import statistics
import time

import torch
from benchmark_optimizers import BOUNDS, LR
from benchmarks.machine import describe_machine
from harness.optimizers import build_optimizer
from harness.parsing import make
from train_gpt2 import SIZES, GPT2Settings, build_model, sequence_loss

from nnunet_cpr.files import user_path, write_json
from nnunet_cpr.optim import AdamCPR

VOCAB_SIZE = 50257
COUNTED_STEPS = 4


def contestants(model: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers by name; AdamW decays what AdamCPR bounds. The learning rate hardly moves the weights."""
    adamw = build_optimizer(model, make(GPT2Settings, {"optimizer": "adamw", "lr": LR}))
    cpr = {f"AdamCPR, {name}": AdamCPR(model, lr=LR, **bound) for name, bound in BOUNDS.items()}
    return {"AdamW": adamw, **cpr}


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="s")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    settings = make(GPT2Settings, {"size": args.size, "context": args.context})
    model = build_model(settings, VOCAB_SIZE).to(device)
    optimizers = contestants(model)

    def clock() -> float:
        """The time in seconds once the device has done what was asked of it."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() if args.clock == "wall" else time.process_time()

    median = statistics.median
    passes: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in optimizers}
    wholes: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(args.rounds + 1):  # the first is the warm-up
        for name, optimizer in optimizers.items():
            sequences = torch.randint(VOCAB_SIZE, (args.batch, args.context + 1), device=device)
            start = clock()
            with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                loss = sequence_loss(model, sequences)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            passed = clock() - start
            taken = []
            for _ in range(1 + COUNTED_STEPS):
                start = clock()
                optimizer.step()
                taken.append(clock() - start)
            optimizer.zero_grad()
            if turn:
                passes.append(passed)
                steps[name].extend(taken[1:])
                wholes[name].append(passed + median(taken[1:]))
    whole = median(passes) + median(steps["AdamW"])
    rows = [
        {
            "optimizer": name, "optimizer_ms": 1e3 * median(steps[name]), "optimizer_min_ms": 1e3 * min(steps[name]),
            "optimizer_max_ms": 1e3 * max(steps[name]), "whole_step_ms": 1e3 * median(wholes[name]),
            "percent_over_adamw": 100 * (median(steps[name]) - median(steps["AdamW"])) / whole,
            "percent_whole_steps": 100 * (median(wholes[name]) / median(wholes["AdamW"]) - 1),
        }
        for name in optimizers
    ]  # fmt: skip
    shown = {"size", "batch", "context", "rounds", "threads", "precision", "clock"}
    result = {**describe_machine(device), **{k: v for k, v in vars(args).items() if k in shown}}
    print(", ".join(f"{key} {value}" for key, value in result.items()))
    spread = f"{1e3 * min(passes):.0f} to {1e3 * max(passes):.0f}"
    print(f"forward and backward: median {1e3 * median(passes):.0f} ms, {spread}")
    print(f"{'':27}{'optimizer ms':>13}{'min':>8}{'max':>8}{'whole ms':>10}{'over AdamW':>12}{'of wholes':>11}")
    for row in rows:
        print(
            f"{row['optimizer']:27}{row['optimizer_ms']:13.1f}{row['optimizer_min_ms']:8.1f}"
            f"{row['optimizer_max_ms']:8.1f}{row['whole_step_ms']:10.0f}{row['percent_over_adamw']:+11.2f}%{row['percent_whole_steps']:+10.2f}%"
        )
    if args.json:
        result |= {"forward_backward_ms": 1e3 * median(passes), "rows": rows}
        write_json(args.json, result)


if __name__ == "__main__":
    main()
