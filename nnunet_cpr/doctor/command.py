"""`nnunet-cpr doctor`: one line per fact. Imports no torch; what needs it runs in a process of its own."""

import argparse
import itertools
import json


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this installation and machine",
        description="Prints one line per fact: ok, or what to do. Ends with exit code 1 if trainings would not run.",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts as they come: 0 if nothing that trainings need is missing, otherwise 1."""
    from nnunet_cpr.doctor.installation import installation_facts
    from nnunet_cpr.doctor.machine import machine_facts

    facts = []
    for fact in itertools.chain(installation_facts(), machine_facts()):
        facts.append(fact)
        if not args.json:
            print(f"{fact.state:6}{fact.name:28}{fact.value}", flush=True)
            if fact.advice:
                print(f"{'':34}-> {fact.advice}", flush=True)
    if args.json:
        rows = [{"name": f.name, "state": f.state, "value": f.value, "advice": f.advice} for f in facts]
        print(json.dumps(rows, indent=2))
    return 1 if any(fact.state == "FAULT" for fact in facts) else 0
