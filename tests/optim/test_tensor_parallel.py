"""Four gloo processes: tensor parallel on pairs of ranks, and FSDP2 over it, train as one process does.

Also every way in which a DTensor may lie on a mesh of two dimensions: R and the constraint step are those of the whole.
"""

import functools
import itertools

import pytest
import torch
from fused_backends import in_use
from gloo_ranks import on_ranks
from optim_helpers import REGULARIZER_NAMES, STEP_FORMS, cpr_settings, make_fused
from torch import nn

from nnunet_cpr.optim import AdamCPR
from nnunet_cpr.optim.regularizers import REGULARIZERS

MODES = ("tensor parallel", "FSDP2 over tensor parallel")
needs_both = pytest.mark.skipif(
    torch.__version__ < "2.14",
    reason="with torch 2.8's own Adam, FSDP2 over tensor parallel differs from one process, too",
)
PLACEMENTS = ("R", "S(0)", "S(1)")
STEPS = 60
# One for each weight of the network. The rules see nothing but R, so not all combinations are needed here.
SETTINGS = {
    "0": cpr_settings("warm_start", "l2", kappa_update=0.2),
    "2": cpr_settings("uniform", "l1", kappa_update=0.02, kappa_init_param=5.0, step_form="proximal"),
    "4": cpr_settings("inflection_point", "std", kappa_update=0.02),
    "6": cpr_settings("dependent", "huber", kappa_update=0.2),
}


@functools.cache
def mesh():
    return torch.distributed.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))


def network():
    """Of six rows each rank of a pair has three, which FSDP2 splits into two and one; of the last row one has none."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)]
    return nn.Sequential(*layers)


def train(model, steps, **options):
    """Train; return the whole weights, and R, kappa and lambda."""
    groups = [{"params": list(model[int(i)].named_parameters(i)), **settings} for i, settings in SETTINGS.items()]
    opt = AdamCPR(groups, lr=0.02, **options)
    for step in range(steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        (model(x) - 4 * x[:, :1]).square().mean().backward()
        opt.step()
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return [p.detach() for p in whole], [(row.reg, row.kappa, row.lagmul) for row in opt.constraints()]


def check_training(mode, steps, **options):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, both = network(), mesh()
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    parallelize_module(model, both["tensor"], plan)
    if mode != "tensor parallel":
        fully_shard(model, mesh=both["data"])
    return *train(model, steps, **options), [tuple(model[i].weight.to_local().shape) for i in (0, 2, 6)]


def sample():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.3


def placed(placements):
    """The sample as a DTensor."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    kinds = {"R": Replicate(), "S(0)": Shard(0), "S(1)": Shard(1)}
    return distribute_tensor(sample(), mesh(), [kinds[placement] for placement in placements])


def check_placement(reg, *placements):
    """Return R of the DTensor, and the whole of it after an explicit and a proximal step."""
    found = [REGULARIZERS[reg].value([placed(placements)])]
    for form in STEP_FORMS:
        param = placed(placements)
        REGULARIZERS[reg].step([param], torch.tensor([0.1], dtype=torch.float64), form == "proximal")
        found.append(param.full_tensor())
    return found


def check_partial():
    from torch.distributed.tensor import DTensor, Partial

    param = nn.Parameter(DTensor.from_local(torch.ones(3, 3), mesh()["data"], [Partial()]))
    AdamCPR([("weight", param)], lr=0.1)


def check_fused(mode):
    return check_training(mode, STEPS, fused=True)


def check_gradients_placed_otherwise():
    """The updates in one pass in a first step, one more, and one whose parts are of the same size, but elsewhere."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def placed_on(*dims):
        return distribute_tensor(torch.ones(4, 4), mesh(), [Shard(dim) for dim in dims])

    p = nn.Parameter(placed_on(0, 1))
    counts = []
    with in_use("c") as kernels:
        opt = make_fused([p])
        for dims in ((0, 1), (0, 1), (1, 0)):
            p.grad = placed_on(*dims)
            opt.step()
            counts.append(len(kernels.updated))
    return counts


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    checks = {mode: (check_training, mode, STEPS) for mode in MODES}
    for key in itertools.product(REGULARIZER_NAMES, PLACEMENTS, PLACEMENTS):
        checks[key] = (check_placement, *key)
    checks["partial"] = (check_partial,)
    checks |= {(mode, "fused"): (check_fused, mode) for mode in MODES}
    checks["placed otherwise"] = (check_gradients_placed_otherwise,)
    return on_ranks(4, checks, tmp_path_factory.mktemp("ranks"))


def assert_as_on_one_process(results, mode, steps):
    weights, rows = train(network(), steps)
    assert sum(lagmul > 0 for _, _, lagmul in rows) >= 3
    for result in results:
        torch.testing.assert_close(result[mode][0], weights, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.tensor(result[mode][1]), torch.tensor(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", [MODES[0], pytest.param(MODES[1], marks=needs_both)])
def test_trains_as_one_process_does(results, mode):
    assert_as_on_one_process(results, mode, STEPS)


@pytest.mark.parametrize("mode", [MODES[0], pytest.param(MODES[1], marks=needs_both)])
def test_fused_trains_as_one_process_does(results, mode):
    """l2 in one pass, each rank its part."""
    weights, rows = train(network(), STEPS)
    for result in results:
        torch.testing.assert_close(result[mode, "fused"][0], weights, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(torch.tensor(result[mode, "fused"][1]), torch.tensor(rows), rtol=2e-4, atol=2e-5)


def test_a_gradient_that_is_sharded_otherwise_is_left_to_torch(results):
    assert [result["placed otherwise"] for result in results] == [[0, 1, 1]] * len(results)


@needs_both
@pytest.mark.slow
def test_trains_so_for_long(tmp_path):
    results = on_ranks(4, {mode: (check_training, mode, 200) for mode in MODES}, tmp_path)
    for mode in MODES:
        assert_as_on_one_process(results, mode, 200)


@needs_both
def test_shards_are_uneven_and_some_are_empty(results):
    shapes = {mode: [result[mode][2] for result in results] for mode in MODES}
    assert shapes["tensor parallel"] == [[(3, 5), (3, 3), (1, 3)]] * 4
    first, second = [(2, 5), (2, 3), (1, 3)], [(1, 5), (1, 3), (0, 3)]
    assert shapes["FSDP2 over tensor parallel"] == [first, first, second, second]


@pytest.mark.parametrize("placements", list(itertools.product(PLACEMENTS, PLACEMENTS)), ids=", ".join)
@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
def test_any_placement(results, reg, placements):
    wanted = [REGULARIZERS[reg].value([sample()])]
    for form in STEP_FORMS:
        param = sample()
        REGULARIZERS[reg].step([param], torch.tensor([0.1], dtype=torch.float64), form == "proximal")
        wanted.append(param)
    for result in results:
        torch.testing.assert_close(result[(reg, *placements)], wanted, rtol=1e-12, atol=1e-13)


def test_partial_weights_are_refused(results):
    """torch's own Adam cannot step them either."""
    for result in results:
        assert result["partial"].startswith("ValueError: weight of the group is a DTensor whose ranks hold summands")
