import pytest

from nnunet_cpr.demo.device import Machine, probe


def test_cuda_is_the_default_where_it_is():
    assert Machine(cuda="H100", mps=False, bf16_cpu=True).choose(None) == "cuda"
    assert Machine(cuda=None, mps=True, bf16_cpu=False).choose(None) == "cpu"
    assert Machine(cuda="H100", mps=True, bf16_cpu=False).choose("mps") == "mps"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=f"--device {device}: torch finds no .*; use --device cpu"):
        Machine(cuda=None, mps=False, bf16_cpu=False).choose(device)


def test_probe_agrees_with_torch():
    import torch

    machine = probe()
    assert (machine.cuda is not None) == torch.cuda.is_available()
    assert machine.mps == torch.backends.mps.is_available()


def test_a_torch_that_does_not_import_is_reported(monkeypatch):
    monkeypatch.setattr("nnunet_cpr.demo.device._QUESTION", "raise ImportError('libtorch is missing')")
    with pytest.raises(ValueError, match="torch cannot be imported: ImportError: libtorch is missing"):
        probe()
