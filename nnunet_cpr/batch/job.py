"""One job of a study, as Snakemake starts it in the study's folder. Not for users; `nnunet-cpr batch` is."""

import sys
from pathlib import Path

from nnunet_cpr.batch.failures import forget_failure, note_failure
from nnunet_cpr.batch.plan import FILE, Plan, find_dataset, find_ensemble, find_run, read_plan


def main(kind: str, name: str) -> int:
    """Do the job and return the exit code. The reason of a failure is noted, and the last line on stderr."""
    plan = read_plan(Path.cwd() / FILE)
    output = plan.study.output
    forget_failure(output, f"{kind}/{name}")
    try:
        return _do(plan, kind, name)
    except (ValueError, OSError) as error:
        note_failure(output, f"{kind}/{name}", str(error))
        print(f"{kind} {name}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        note_failure(output, f"{kind}/{name}", f"{type(error).__name__}: {error}")
        raise


def _do(plan: Plan, kind: str, name: str) -> int:
    if kind == "prepare":
        from nnunet_cpr.batch.prepare import prepare

        prepare(plan.study, find_dataset(plan, name))
        return 0
    if kind == "train":
        from nnunet_cpr.batch.train import train

        return train(plan, find_run(plan, name))
    if kind == "predict":
        from nnunet_cpr.batch.predict import predict

        return predict(plan, find_ensemble(plan, name))
    from nnunet_cpr.batch.report import measure_surfaces

    find = find_run if kind == "surface" else find_ensemble
    measure_surfaces(plan.study, find(plan, name))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
