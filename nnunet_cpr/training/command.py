"""`nnunet-cpr trainers`: what the trainers' names may be made of, and what a name means. Imports no torch."""

import argparse
import textwrap

from nnunet_cpr.nnunet.trainer_sources import defining_file
from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.optim.regularizers import REGULARIZERS
from nnunet_cpr.training.settings import FAMILIES, NNUNET_LR, PARTS, TrainerSettings, parse

FAMILY_MEANINGS = {
    "nnUNetTrainerCPR": "nnU-Net's SGD and schedule, CPR instead of weight decay",
    "nnUNetTrainerAdamCPR": "Adam, CPR instead of weight decay",
    "nnUNetTrainerSGD": "baseline: nnU-Net's SGD and schedule with weight decay",
    "nnUNetTrainerAdamW": "baseline: AdamW",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    lines += [_wrapped(f"  {spelling:{width + 2}}{only:14}", meaning) for spelling, only, meaning in rows]
    lines += [
        "",
        "Numbers are written 1000, 0.01 or 1e-2. One name is one setting and one results",
        "folder, for example",
        "  nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerCPR_ws2000_warmup2000_100epochs",
        "",
        "To train on top of another trainer, nnU-Net's or one in nnUNet_extTrainer, put",
        "_on_ and its name after the family. It decides what the parts do not say:",
        "augmentation, loss, network, learning rate, schedule, epochs.",
        "  nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerCPR_on_nnUNetTrainerDA5_ws2000",
    ]
    return "\n".join(lines)


def _wrapped(beginning: str, text: str) -> str:
    return textwrap.fill(text, 80, initial_indent=beginning, subsequent_indent=" " * len(beginning))


def describe(name: str) -> str:
    """What a trainer's name means. Raises ValueError, saying why, if it is not a trainer of ours."""
    settings = parse(name)
    settings.check_length(settings.total_steps)
    rows = {
        **({"on top of": f"{settings.base} in {defining_file(settings.base)}"} if settings.base else {}),
        "optimizer": _optimizer(settings),
        "learning rate": _schedule(settings),
        "steps": _length(settings),
        **_regularization(settings),
        "weight decay": _weight_decay(settings),
        "precision": "bfloat16 autocast on every device"
        if settings.bf16
        else "nnU-Net's (float16 autocast on CUDA, float32 elsewhere)",
        "seed": "none" if settings.seed is None else str(settings.seed),
        **({"all else": "the base's"} if settings.base else {}),
        "results": f"$nnUNet_results/<dataset>/{name}__<plans>__<configuration>/fold_<fold>",
    }
    return "\n".join([name, *(_paragraph(key, text) for key, text in rows.items())])


def _optimizer(settings: TrainerSettings) -> str:
    if settings.optimizer == "SGD":
        kind, text = "SGD", "SGD, Nesterov momentum 0.99"
    else:
        kind, text = "Adam or AdamW", f"{settings.optimizer}, betas (0.9, 0.99)"
    return f"{text}; if the base uses {kind}, with the settings that it has there" if settings.base else text


def _length(settings: TrainerSettings) -> str:
    if settings.total_steps is not None:
        return f"{settings.total_steps:,} ({settings.epochs:,} epochs of {settings.iterations:,})"
    if settings.epochs is None and settings.iterations is None:
        return "as many as the base does"
    epochs = "as many epochs as the base has" if settings.epochs is None else f"{settings.epochs:,} epochs"
    return epochs + (" of the base's length" if settings.iterations is None else f" of {settings.iterations:,}")


def _weight_decay(settings: TrainerSettings) -> str:
    if settings.base is None:
        return f"{settings.weight_decay:g}, of all parameters" if settings.weight_decay else "none"
    if settings.cpr:
        return "none; what the base exempts from weight decay, CPR leaves alone, too"
    if settings.weight_decay is not None:
        return f"{settings.weight_decay:g}, of all parameters that the base does not exempt"
    return f"the base's, if its optimizer is of the same kind, else {settings.family.weight_decay:g}"


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
    if settings.lr is not None:
        rate = f"{settings.lr:g}"
    else:
        rate = "the base's"
        if settings.family.lr != NNUNET_LR:
            rate += f" ({settings.family.lr:g} if that is nnU-Net's {NNUNET_LR:g})"
    if settings.warmup_steps:
        return (
            f"{rate}, linear warmup over {settings.warmup_steps:,} steps, "
            "then polynomial decay (exponent 0.9), both per step"
        )
    if settings.base:
        return f"{rate}, with the base's schedule"
    return f"{rate}, nnU-Net's polynomial decay (exponent 0.9) per epoch, no warmup"


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
