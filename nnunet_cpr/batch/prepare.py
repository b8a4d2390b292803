"""The job that prepares a dataset before any of its folds starts: nnU-Net's folds race on what is left to them.

Plans, preprocessed data, the split (nnUNet issue 3064) and unpacked arrays (2626) are there, whole, when it ends.
"""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from nnunet_cpr.batch.failures import reason_in
from nnunet_cpr.batch.locks import take
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.study_data import PLANNERS
from nnunet_cpr.datasets.small_plans import CONFIGURATION as SMALL
from nnunet_cpr.datasets.small_plans import add_small_configuration
from nnunet_cpr.files import read_json, write_json
from nnunet_cpr.nnunet.cascade import CASCADE, FIRST_STAGE
from nnunet_cpr.nnunet.commands import executable
from nnunet_cpr.nnunet.paths import needed_folder
from nnunet_cpr.nnunet.processes import stop_with_parent
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.parallel import job_cores


def is_prepared(study: Study, dataset: str) -> bool:
    """Say whether plans, preprocessed data and split are there. Imports no torch."""
    preprocessed = _preprocessed(dataset)
    return (preprocessed / "splits_final.json").is_file() and all(
        _is_planned(setup, preprocessed) and not _lacking(setup, preprocessed) for setup in study.trained_setups
    )


def prepare(study: Study, dataset: str) -> None:
    """Do what is missing of planning, preprocessing, split and unpacking.

    Raises:
        ValueError: a command of nnU-Net failed; its log is named.
    """
    log = study.output / "logs" / dataset / "prepare.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    preprocessed = _preprocessed(dataset)
    lock = take(preprocessed.with_name(f".{dataset}.lock"))  # other studies may prepare the same dataset
    try:
        assert lock is not None
        for setup in study.trained_setups:
            _prepare(setup, preprocessed, log, lock)
    finally:
        if lock is not None:
            os.close(lock)


def _prepare(setup: Setup, preprocessed: Path, log: Path, lock: int) -> None:
    number = str(int(preprocessed.name[7:10]))
    plans_file = preprocessed / f"{setup.plans}.json"
    if not plans_file.is_file():
        if not (preprocessed / "dataset_fingerprint.json").is_file():
            _run(
                [
                    "nnUNetv2_extract_fingerprint",
                    "-d",
                    number,
                    *_processes("fingerprint"),
                    "--verify_dataset_integrity",
                ],
                log,
                lock,
            )
        _run(["nnUNetv2_plan_experiment", "-d", number, "-pl", PLANNERS[setup.plans]], log, lock)
    if not _is_planned(setup, preprocessed):
        if setup.configuration != SMALL:
            why = " (it does so only for large images)" if setup.configuration in (FIRST_STAGE, CASCADE) else ""
            raise ValueError(f"nnU-Net planned no configuration {setup.configuration} for {preprocessed.name}{why}")
        add_small_configuration(plans_file, read_json(plans_file))
    if _lacking(setup, preprocessed):
        # The small configuration and the cascade take the data of the one that they inherit from.
        planned = "3d_fullres" if setup.configuration in (SMALL, CASCADE) else setup.configuration
        command = ["nnUNetv2_preprocess", "-d", number, "-plans_name", setup.plans, "-c", planned]
        _run([*command, *_processes(planned)], log, lock)
    if lacking := _lacking(setup, preprocessed):
        raise ValueError(f"{lacking[0]} and {len(lacking) - 1} more cases were not preprocessed; see {log}")
    _split_and_unpack(setup, preprocessed)


def _processes(what: str) -> list[str]:
    """nnU-Net's own numbers of processes mind the memory; a job of fewer cores does better with fewer."""
    cores = job_cores()
    return ["-np", str(cores)] if cores < {"3d_fullres": 4}.get(what, 8) else []


def _preprocessed(dataset: str) -> Path:
    return needed_folder("nnUNet_preprocessed") / dataset


def _is_planned(setup: Setup, preprocessed: Path) -> bool:
    plans = preprocessed / f"{setup.plans}.json"
    return plans.is_file() and setup.configuration in read_json(plans)["configurations"]


def _data_folder(setup: Setup, preprocessed: Path) -> Path:
    """Where the configuration's data is. nnU-Net's PlansManager says the same, but imports torch."""
    plans = preprocessed / f"{setup.plans}.json"
    configurations = read_json(plans)["configurations"]
    with suppress(KeyError, TypeError):
        configuration = configurations[setup.configuration]
        for _ in configurations:  # none inherits more often, unless from itself
            if "data_identifier" in configuration:
                return preprocessed / str(configuration["data_identifier"])
            configuration = configurations[configuration["inherits_from"]]
    raise ValueError(f"{plans}: {setup.configuration} has no data_identifier; plan {preprocessed.name} anew")


def _lacking(setup: Setup, preprocessed: Path) -> list[str]:
    """The training cases without preprocessed data. nnU-Net writes a case's .pkl last, and then copies all labels."""
    raw = needed_folder("nnUNet_raw") / preprocessed.name
    folder = _data_folder(setup, preprocessed)
    if not (raw / "dataset.json").is_file():  # only the preprocessed data was brought here
        return [] if any(folder.glob("*.pkl")) else [preprocessed.name]
    # nnU-Net's own get_filenames_of_train_images_and_targets starts a pool of processes for this.
    description = read_json(raw / "dataset.json")
    ending = description["file_ending"]
    labels = [file.name.removesuffix(ending) for file in (raw / "labelsTr").glob(f"*{ending}")]
    cases = sorted(description.get("dataset", labels))
    copies = preprocessed / "gt_segmentations"
    return [
        case for case in cases if not ((folder / f"{case}.pkl").is_file() and (copies / f"{case}{ending}").is_file())
    ]


def _split_and_unpack(setup: Setup, preprocessed: Path) -> None:
    """What nnU-Net's first training would do, by nnU-Net's own functions."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    folder = _data_folder(setup, preprocessed)
    dataset_class = infer_dataset_class(str(folder))
    dataset_class.unpack_dataset(str(folder), overwrite_existing=False, num_processes=job_cores(), verify=True)
    splits = preprocessed / "splits_final.json"
    if not splits.is_file():
        cases = sorted(dataset_class.get_identifiers(str(folder)))
        write_json(splits, generate_crossval_split(cases, seed=12345, n_splits=5))


def _run(command: list[str], log: Path, lock: int) -> None:
    """Run the command; it keeps the lock and is told to stop if this process is killed."""
    with log.open("ab") as stream:
        stream.write(f"\n$ {' '.join(command)}\n".encode())
        stream.flush()
        full = [executable(command[0]), *command[1:]]
        begin = stream.tell()
        code = subprocess.run(
            full, stdout=stream, stderr=subprocess.STDOUT, check=False, pass_fds=[lock], preexec_fn=stop_with_parent
        ).returncode
    if code:
        raise ValueError(f"{command[0]} failed with exit code {code}: {reason_in(log, begin)}; see {log}")
