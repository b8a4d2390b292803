"""One job of a study, as Snakemake starts it in the study's folder. Not for users; `nnunet-cpr batch` is."""

import sys
from pathlib import Path

from nnunet_cpr.batch.plan import FILE, find_run, read_plan


def main(kind: str, name: str) -> int:
    """Do the job and return the exit code; the reason of a failure is the last line on stderr."""
    plan = read_plan(Path.cwd() / FILE)
    try:
        if kind == "prepare":
            from nnunet_cpr.batch.prepare import prepare

            prepare(plan.study, name)
            return 0
        if kind == "train":
            from nnunet_cpr.batch.train import train

            return train(plan, find_run(plan, name))
        from nnunet_cpr.batch.report import measure_surfaces

        measure_surfaces(plan.study, find_run(plan, name))
        return 0
    except (ValueError, OSError) as error:
        print(f"{kind} {name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
