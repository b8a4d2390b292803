"""Gloo processes: sharded weights take the kernels, too, each rank its part, and train as on the plain path.

Only Adam: torch has no fused SGD for DTensors.
"""

from unittest import mock

import pytest
import torch
import torch.distributed as dist
from fused_backends import in_use, skip_where_missing
from gloo_ranks import on_ranks
from optim_helpers import make_fused, needs_fsdp2_on_cpu
from torch import nn

pytestmark = needs_fsdp2_on_cpu
WAYS = ("c", "triton")
STEPS, EDITED = 40, 20
PLACE = (1, 2)  # of the first weights, on the first rank; not among the few elements that are compared


def network():
    """Of the last weights, one row, all ranks but the first have nothing; of the others, each has ten or more."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 11), nn.Tanh(), nn.Linear(11, 1))


def nothing(model):
    pass


def in_place(model):
    with torch.no_grad():
        model[0].weight.copy_(edited(model[0].weight))


def loaded(model):
    model.load_state_dict({**model.state_dict(), "0.weight": edited(model[0].weight)})


def its_part(model):
    if dist.get_rank() == 0:
        with torch.no_grad():
            model[0].weight.to_local()[PLACE] = 3.0


def edited(weight):
    from torch.distributed.tensor import distribute_tensor

    whole = weight.full_tensor().detach().clone()
    whole[PLACE] = 3.0
    return distribute_tensor(whole, weight.device_mesh, weight.placements)


def train(model, opt, start, stop):
    for step in range(start, stop):
        x = torch.randn(12, 5, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        (model(x) - 4 * x[:, :1]).square().sum(1).mean().backward()
        opt.step()


def check_training(way, edit):
    """Train, edit the model and train again.

    Returns the whole weights; each tensor's R, kappa and lambda; and, after the edit, the number of tensors in each
    update by kernels and in each reading of R.
    """
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    with in_use(way) as backend:
        opt = make_fused(model)
        train(model, opt, 0, EDITED)
        edit(model)
        backend.updated.clear()
        with backend.watched_reads() as reads:
            train(model, opt, EDITED, EDITED + 2)
        train(model, opt, EDITED + 2, STEPS)
    rows = [(row.reg, row.kappa, row.lagmul) for row in opt.constraints()]
    weights = [p.full_tensor().detach() for p in model.parameters()]
    return weights, rows, [len(some) for some in backend.updated], [len(some) for some in reads]


def check_autograd(way):
    """Whether a graph of a DTensor, and one of its part, refuse their backward passes after a step."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = nn.Parameter(distribute_tensor(torch.ones(6, 5), mesh, [Shard(0)]))
    refused = []
    with in_use(way) as backend:
        opt = make_fused([p])
        for loss_of in (lambda: (p**2).sum(), lambda: (p.to_local() ** 2).sum()):
            for _ in range(3):
                p.grad = distribute_tensor(torch.ones(6, 5), mesh, [Shard(0)])
                loss = loss_of()
                opt.step()
            try:
                loss.backward()
            except RuntimeError as e:
                refused.append("inplace" in str(e))
    return refused, len(backend.updated)


def check_moving(way):
    """The dtype of the weights after a cast, which swaps tensors and so allows no weak reference to them."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    with in_use(way) as backend:
        opt = make_fused(model)
        for _ in range(3):
            opt.zero_grad()
            model(torch.ones(2, 5)).sum().backward()
            opt.step()
    return model.double()[0].weight.dtype, len(backend.updated)


def check_collectives():
    """How often ranks have met in the three steps of a warm start."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    opt = make_fused(model, kappa_init_method="warm_start", kappa_init_param=100)
    met = []
    for _ in range(3):
        opt.zero_grad()
        model(torch.ones(2, 5)).sum().backward()
        with mock.patch.object(dist, "all_reduce", lambda *args, **kwargs: met.append(1)):
            opt.step()
    return len(met)


@pytest.fixture(
    scope="module", params=[pytest.param(2, id="2 ranks"), pytest.param(3, id="3 ranks", marks=pytest.mark.slow)]
)
def results(request, tmp_path_factory):
    edits = [nothing, in_place, loaded, its_part]
    checks = {(way, edit.__name__): (check_training, way, edit) for way in (*WAYS, None) for edit in edits}
    checks |= {("autograd", way): (check_autograd, way) for way in WAYS}
    checks |= {("moving", way): (check_moving, way) for way in WAYS}
    checks["collectives"] = (check_collectives,)
    return on_ranks(request.param, checks, tmp_path_factory.mktemp("ranks"))


def needs(way):
    skip_where_missing(way)
    if way == "triton" and torch.cuda.is_available():
        pytest.skip("these ranks are on the CPU, for which Triton's interpreter must be chosen at its import")


@pytest.mark.parametrize("edit", ["nothing", "in_place", "loaded", "its_part"])
@pytest.mark.parametrize("way", WAYS)
def test_trains_as_on_the_plain_path(results, way, edit):
    needs(way)
    for result in results:
        weights, rows, updates, _ = result[way, edit]
        assert updates == [3] * (STEPS - EDITED)
        assert any(lagmul > 0 for _, _, lagmul in rows)
        expected = result[None, edit]
        assert expected[2] == []
        torch.testing.assert_close((weights, rows), expected[:2], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_only_changed_weights_are_read(results, way):
    needs(way)
    for rank, result in enumerate(results):
        reads = {edit: result[way, edit][3] for edit in ("nothing", "in_place", "loaded", "its_part")}
        assert reads["nothing"] == []
        assert reads["in_place"] == [1]
        assert reads["its_part"] == ([1] if rank == 0 else [])
        assert reads["loaded"] == [3 if rank == 0 else 2]  # all were loaded


@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_have_the_same_bounds_and_multipliers(results, way):
    """Bit for bit, or their parts of a tensor would drift apart."""
    needs(way)
    first, *others = (result[way, "nothing"][1] for result in results)
    assert all(first == other for other in others)


def test_ranks_meet_in_each_step_also_during_a_warm_start(results):
    """Were it left to what each finds in its state, a bound set by hand on one of them would have it wait forever."""
    assert [result["collectives"] for result in results] == [3] * len(results)


@pytest.mark.parametrize("way", WAYS)
def test_an_autograd_graph_notices_the_new_weights(results, way):
    needs(way)
    for result in results:
        assert result["autograd", way] == ([True, True], 5)  # the first step has no state


@pytest.mark.parametrize("way", WAYS)
def test_a_model_can_be_moved_afterwards(results, way):
    needs(way)
    assert [result["moving", way] for result in results] == [(torch.float64, 2)] * len(results)
