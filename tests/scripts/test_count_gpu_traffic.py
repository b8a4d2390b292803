"""The GPU kernels go through memory once, and launch the same for any number of tensors."""

import pytest

pytest.importorskip("nnunet_cpr.optim.fused.triton_kernels", reason="no Triton, which comes with torch on Linux")


@pytest.fixture(scope="module")
def counts():
    import torch
    from count_gpu_traffic import SHAPE, count, why_not

    if torch.cuda.is_available():
        pytest.skip("counts in Triton's interpreter, which must be chosen before Triton is imported")

    if reason := why_not():
        pytest.skip(reason)

    def bytes_and_launches(name, tensors=2):
        traffic = count(name, tensors)
        return traffic.bytes / (tensors * SHAPE[0] * SHAPE[1]), traffic

    return bytes_and_launches


@pytest.mark.parametrize("ours, torchs, floor", [("AdamCPR", "AdamW fused", 28), ("SGDCPR", "SGD fused", 20)])
def test_once_through_memory(ours, torchs, floor, counts):
    """The floor: Adam reads x, g, m, v and writes x, m, v; SGD reads x, g, b and writes x, b; 4 bytes each."""
    assert counts(torchs)[0] == pytest.approx(floor, rel=1e-3)
    assert floor <= counts(ours)[0] < 1.003 * floor
    # R is read and the weights are scaled in addition.
    assert counts(f"{ours}, plain path")[0] == pytest.approx(floor + 12, rel=2e-3)


@pytest.mark.parametrize(
    "name, kernels",
    [
        ("AdamCPR", {"read_chunks", "add_chunks", "begin_adam", "adam"}),
        ("SGDCPR", {"read_chunks", "add_chunks", "sgd"}),
    ],
)
def test_launches_do_not_depend_on_the_number_of_tensors(name, kernels, counts):
    few, many = counts(name)[1], counts(name, tensors=7)[1]
    assert few.kernels == many.kernels == dict.fromkeys(kernels, 1)
    assert few.operators == many.operators
    assert few.operators.total() < 20
