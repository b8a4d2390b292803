"""`nnunet-cpr trainers`: what the trainers' names may be made of, and what a name means. Imports no torch."""

import argparse
import textwrap

from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS
from nnunet_cpr.training.settings import FAMILIES, PARTS, TrainerSettings, parse

FAMILY_MEANINGS = {
    "nnUNetTrainerCPR": "nnU-Net's SGD and schedule, CPR instead of weight decay",
    "nnUNetTrainerAdamCPR": "Adam, CPR instead of weight decay",
    "nnUNetTrainerSGD": "baseline: nnU-Net's SGD and schedule with weight decay",
    "nnUNetTrainerAdamW": "baseline: AdamW",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "trainers",
        help="list what a trainer's name may be made of, or say what a name means",
        description="Lists what a trainer's name may be made of; given names, says what each of them means.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a trainer's name, as for nnUNetv2_train -tr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the grammar or the meaning of the names."""
    print("\n\n".join(describe(name) for name in args.names) if args.names else grammar())
    return 0


def grammar() -> str:
    """The table of families and parts."""
    rows = [(part.spelling, part.only or "all", part.meaning) for part in PARTS]
    width = max(len(spelling) for spelling, _, _ in rows)
    lines = ["Families, each a trainer by itself:", ""]
    lines += [f"  {family:22}{FAMILY_MEANINGS[family]}" for family in FAMILIES]
    lines += ["", "Parts that may follow, joined by _ in any order, each kind once:", ""]
    lines += [f"  {spelling:{width + 2}}{only:14}{meaning}" for spelling, only, meaning in rows]
    lines += [
        "",
        "Numbers are written 1000, 0.01 or 1e-2. One name is one setting and one results folder, for example",
        "  nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerCPR_ws2000_warmup2000_100epochs",
    ]
    return "\n".join(lines)


def describe(name: str) -> str:
    """What a trainer's name means. Raises ValueError, saying why, if it is not a trainer of ours."""
    settings = parse(name)
    settings.check_length(settings.total_steps)
    rows = {
        "optimizer": "SGD, Nesterov momentum 0.99"
        if settings.optimizer == "SGD"
        else f"{settings.optimizer}, betas (0.9, 0.99)",
        "learning rate": _schedule(settings),
        "steps": f"{settings.total_steps:,} ({settings.epochs:,} epochs of {settings.iterations:,})",
        **_regularization(settings),
        "weight decay": f"{settings.weight_decay:g}, of all parameters" if settings.weight_decay else "none",
        "precision": "bfloat16 autocast on every device"
        if settings.bf16
        else "nnU-Net's (float16 autocast on CUDA, float32 elsewhere)",
        "seed": "none" if settings.seed is None else str(settings.seed),
        "results": f"$nnUNet_results/<dataset>/{name}__<plans>__<configuration>/fold_<fold>",
    }
    return "\n".join([name, *(_paragraph(key, text) for key, text in rows.items())])


def _paragraph(key: str, text: str) -> str:
    return textwrap.fill(
        text,
        118,
        initial_indent=f"  {key:16}",
        subsequent_indent=" " * 18,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _schedule(settings: TrainerSettings) -> str:
    if settings.warmup_steps:
        return (
            f"{settings.lr:g}, linear warmup over {settings.warmup_steps:,} steps, "
            "then polynomial decay (exponent 0.9), both per step"
        )
    return f"{settings.lr:g}, nnU-Net's polynomial decay (exponent 0.9) per epoch, no warmup"


def _regularization(settings: TrainerSettings) -> dict[str, str]:
    cpr = settings.cpr
    if cpr is None:
        return {}
    rule, value = RULES[cpr.kappa_init_method], cpr.kappa_init_param or 0
    number = f"{value:,}" if rule.counts_steps else f"{value:g}"
    bound = f"{rule.title}: kappa = {rule.meaning.format(number)}"
    return {
        "regularization": f"CPR, R = {REGULARIZERS[cpr.reg_function].meaning} of each weight tensor, "
        f"mu = {cpr.kappa_update:g}, {cpr.step_form} step",
        "bound": bound + (", tightened whenever lambda returns to 0" if cpr.adaptive_bounds else ""),
    }
