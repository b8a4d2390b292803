"""How many threads torch uses when a training runs on a CPU."""

import torch

from nnunet_cpr.parallel import job_cores, training_threads


def limit_threads() -> None:
    """Use no more threads than NNUNET_CPR_THREADS says, or than the cores that this job may use.

    On a CPU, nnU-Net's commands give torch as many threads as the machine has cores, whatever else is set. In a
    container, in a job of a cluster, or beside another training, the threads then wait for each other.
    """
    torch.set_num_threads(min(training_threads() or job_cores(), torch.get_num_threads()))
