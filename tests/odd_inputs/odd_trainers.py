"""`nnunet-cpr trainers NAME ...`: what a name means, against a meaning that the world writes down with the name."""

import math
import re

from odd_texts import NUMBERS
from odd_worlds import ACCEPTED, EITHER, REFUSED, REQUEST, NotHereError, OracleError, World, odd, pick

FAMILIES = ("nnUNetTrainerCPR", "nnUNetTrainerAdamCPR", "nnUNetTrainerSGD", "nnUNetTrainerAdamW")
REGULARIZERS = {"l2": "squared l2", "l1": "l1 norm", "std": "standard deviation", "huber": "Huber"}


class Trainers(World):
    """One to three names with what must be said of each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.names: list[str] = []
        self.facts: list[list[str]] = []
        self.checked = True
        self.argv = ["trainers"]
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            self.add()

    def add(self) -> None:
        """Add a good name."""
        rng = self.rng
        family = rng.choice(FAMILIES)
        parts, facts = [], []
        epochs, iterations = 1000, 250
        if rng.random() < 0.6:
            epochs = rng.choice([1, 7, 100, 5000, 10**7])
            parts.append(f"{epochs}epochs")
        if rng.random() < 0.4:
            iterations = rng.choice([1, 5, 250, 333])
            parts.append(f"{iterations}iters")
        total = epochs * iterations
        facts.append(f"{total:,} ({epochs:,} epochs of {iterations:,})")
        if "CPR" in family:
            facts += self._bound(parts, total)
        elif rng.random() < 0.5:
            decay = rng.choice(["0", "1e-2", "0.5", "3e-5", "10"])
            parts.append(f"wd{decay}")
            facts.append(f"{float(decay):g}, of all parameters" if float(decay) else "none")
        if rng.random() < 0.4:
            rate = rng.choice(["1e-3", "0.01", "0.3", "1", "2.5e-4"])
            parts.append(f"lr{rate}")
            facts.append(f"{float(rate):g}, ")
        if rng.random() < 0.4:
            seed = rng.choice([0, 1, 2**32 - 1])
            parts.append(f"seed{seed}")
            facts.append(f"seed            {seed}")
        if rng.random() < 0.3 and total > 1:
            warmup = rng.randrange(1, total)
            parts.append(f"warmup{warmup}")
            facts.append(f"warmup over {warmup:,} steps")
        if rng.random() < 0.2:
            parts.append("bf16")
            facts.append("bfloat16")
        rng.shuffle(parts)
        self.names.append("_".join([family, *parts]))
        self.facts.append(facts)

    def _bound(self, parts: list[str], total: int) -> list[str]:
        rng = self.rng
        rule = rng.choice(["ws", "ip", "k", "ki"]) if total > 1 else "ip"
        facts = []
        if rule == "ws":
            steps = rng.randrange(1, total)
            parts.append(f"ws{steps}")
            facts.append(f"{steps:,} unconstrained steps")
        elif rule == "ip":
            parts.append("ip")
            facts.append("inflection point")
        else:
            value = rng.choice(["0.1", "2", "1e-3", "12.5", "1e3"])
            parts.append(rule + value)
            facts.append(f"kappa = {float(value):g} ")
        if rng.random() < 0.4:
            kind = rng.choice(list(REGULARIZERS))
            parts.append(kind)
            facts.append(REGULARIZERS[kind])
        if rng.random() < 0.3:
            mu = rng.choice(["0.5", "2", "1e-2"])
            parts.append(f"mu{mu}")
            facts.append(f"mu = {float(mu):g}")
        for name, fact in (("proximal", "proximal step"), ("adaptive", "tightened")):
            if rng.random() < 0.2:
                parts.append(name)
                facts.append(fact)
        return facts

    def end_phase(self, phase: int) -> None:
        if phase == REQUEST:
            self.argv = ["trainers", *self.names]

    def check_success(self, out: str, err: str) -> None:
        blocks = out.split("\n\n")
        if not (self.facts and self.checked):
            return
        if len(blocks) != len(self.names):
            raise OracleError(f"{len(blocks)} descriptions of {len(self.names)} names")
        for name, facts, block in zip(self.names, self.facts, blocks, strict=True):
            text = " ".join(block.split())
            if not block.startswith(name + "\n"):
                raise OracleError(f"the description of {name} begins otherwise")
            for fact in facts:
                if " ".join(fact.split()) not in text:
                    raise OracleError(f"{name}: {fact!r} is not said: {text[:300]}")


def _replace(world: Trainers, new: str) -> str:
    index = world.rng.randrange(len(world.names))
    world.names[index] = new
    world.words += [new, *new.split("_"), "name"]
    return new


@odd(REQUEST, ACCEPTED)
def many_names(world: Trainers) -> str:
    for _ in range(50):
        world.add()
    return "50 names more"


@odd(REQUEST, ACCEPTED)
def same_name_twice(world: Trainers) -> str:
    world.names.append(world.names[0])
    world.facts.append(world.facts[0])
    return "a name twice"


@odd(REQUEST, REFUSED)
def bad_part(world: Trainers) -> str:
    name = pick(world, world.names)
    part = pick(
        world,
        ["ws", "ws0", "ws-1", "ws1.5", "ws1e3", "k", "k0", "k-1", "kinf", "knan", "k1e", "k.5", "k1e400", "k1e-400",
         "ki0", "mu0", "mu-1",
         "wd-1", "wdnan", "wd1e400", "lr0", "lr-1", "lr1e999", "0epochs", "-1epochs", "1.5epochs", "1_000epochs",
         "epochs", "0iters",
         "seed", "seed-1", f"seed{2**32}", "seed1e3", "seed" + "9" * 5000, "9" * 5000 + "epochs", "ws" + "9" * 5000,
         "warmup0", "warmup",
         "fp16", "BF16", "L2", "l3", "Proximal", "adaptive1", "ws٣", "seed٣", "seed²", "ip1", "", " ", "x", "ws1000 ",
         "\n", "é", "*",
         "warmup" + "9" * 30, "ws" + "9" * 30, "nnUNetTrainerCPR", "-", "--help", "%s", "{x}", "ws10ws20"],
    )  # fmt: skip
    _replace(world, f"{name}_{part}")
    return f"the part {part[:40]!r}"


@odd(REQUEST, REFUSED)
def part_twice(world: Trainers) -> str:
    name = pick(world, world.names)
    parts = name.split("_")[1:]
    if not parts:
        raise NotHereError
    part = pick(world, parts)
    _replace(world, f"{name}_{part}")
    return f"{part} twice"


@odd(REQUEST, REFUSED)
def foreign_part(world: Trainers) -> str:
    if pick(world, [True, False]):
        _replace(
            world,
            pick(
                world, ["nnUNetTrainerSGD_ws10", "nnUNetTrainerAdamW_ip", "nnUNetTrainerSGD_l1", "nnUNetTrainerSGD_mu2"]
            ),
        )
    else:
        _replace(world, pick(world, ["nnUNetTrainerCPR_wd1e-2", "nnUNetTrainerAdamCPR_wd0"]))
    return "a part of another family"


@odd(REQUEST, REFUSED)
def no_family(world: Trainers) -> str:
    new = pick(
        world,
        ["nnUNetTrainer", "nnunettrainercpr", "nnUNetTrainerCPRx", "nnUNetTrainerCPR-ws10", "", " ", "CPR",
         "nnUNetTrainerCPR ws10",
         " nnUNetTrainerCPR", "nnUNetTrainerCPR ", "nnUNetTrainerСPR", "nnUNetTrainerCPR\n", "nnUNetTrainerCPR__ws10",
         "nnUNetTrainerCPR_",
         "nnUNetTrainerSGDCPR", "nnUNetTrainerAdam", "x" * 3000, "b\udcffd", "'", "nnUNetTrainerCPR.py",
         "nnUNetTrainerAdamWd"],
    )  # fmt: skip
    _replace(world, new)
    world.words += ["nnUNetTrainer"]
    return f"the name {new[:40]!r}"


@odd(REQUEST, REFUSED)
def too_short(world: Trainers) -> str:
    steps = world.rng.choice([10, 2500])
    part = pick(world, [f"ws{steps}", f"warmup{steps}", f"ws{steps + 1}", f"warmup{10**12}"])
    epochs = {10: "2epochs_5iters", 2500: "10epochs"}[steps]
    _replace(world, f"nnUNetTrainerCPR_{epochs}_{part}")
    return f"{part} in {steps} steps"


@odd(REQUEST)
def odd_flags(world: Trainers) -> str:
    flag = pick(world, ["--help", "-h", "--x", "-x", "--", "--version", "--names"])
    world.names.insert(0, flag)
    world.checked = False
    if flag in ("--x", "-x", "--names"):
        world.verdict = REFUSED if len(world.chosen) == 1 else EITHER
    return f"the flag {flag}"


@odd(REQUEST)
def odd_numbers(world: Trainers) -> str:
    """A number as somebody may write it; if it is taken, its value must be right."""
    text = pick(world, NUMBERS)
    part = pick(world, ["k", "ki", "mu", "lr"])
    _replace(world, f"nnUNetTrainerCPR_{part}{text}")
    try:
        plain = bool(re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text, re.ASCII)) and 0 < float(text) < math.inf
    except ValueError:
        plain = False
    world.checked = False
    if len(world.chosen) == 1:
        world.verdict = ACCEPTED if plain else REFUSED
    return f"{part}{text[:30]!r}"


@odd(REQUEST, ACCEPTED)
def no_names(world: Trainers) -> str:
    if len(world.chosen) > 1:
        raise NotHereError
    world.names, world.facts = [], []
    return "no name"
