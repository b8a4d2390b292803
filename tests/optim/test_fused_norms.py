"""R that kernels add up while they write the weights: the R of these weights, never of others."""

import copy
import math
import pickle

import pytest
import torch
from fused_backends import UNSAMPLED, kernels, same_tensors
from optim_helpers import CLASSES, FUSED_BOUND, Pull, assert_same_bits, bits, make, make_fused

pytestmark = kernels
both_optimizers = pytest.mark.parametrize("name", CLASSES)


def shapes(backend):
    return ((7, 5), (backend.chunk + 100, 1))


def build(name, params):
    """Bounds that are violated at every step from the second on."""
    return make(name, params, "dependent", kappa_init_param=0.5, kappa_update=0.05, fused=True)


def trained(backend, steps, name="Adam", more=()):
    pull = Pull((*shapes(backend), *more), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = build(name, params)
    pull.run(opt, params, 0, steps)
    return pull, params, opt


def exact(params):
    return torch.stack([p.detach().double().square().sum() for p in params])


def are_of_the_weights(norms, params):
    """Whether these are the R of the weights, whatever was done to them."""
    return torch.allclose(norms.double(), exact(params), rtol=1e-6)


def read_again(params):
    """Make every backend read R of these weights, which stay as they are."""
    torch.autograd.graph.increment_version(params)


@both_optimizers
@pytest.mark.parametrize("chunks, more", [(0, 1), (0, 1023), (0, 1024), (0, 1025), (1, -1), (1, 0), (1, 1), (5, 77)])
def test_r_is_exact_and_reading_finds_the_same_bits(name, chunks, more, backend):
    pull = Pull(((chunks * backend.chunk + more, 1),), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make_fused(params, name)
    pull.run(opt, params, 0, 4)
    known = backend.norms(opt, params)
    torch.testing.assert_close(known.double(), exact(params), rtol=3e-7, atol=0)
    read_again(params)
    assert_same_bits([known], [backend.norms(opt, params)])


@both_optimizers
def test_nothing_is_read_while_the_constraints_act(name, backend):
    pull, params, opt = trained(backend, 4, name)
    assert all(constraint.active for constraint in opt.constraints())
    with backend.watched_reads() as reads:
        pull.run(opt, params, 4, 10)
    assert reads == []


def test_all_are_read_in_the_first_step_of_kernels(backend):
    """Also shows that the watch of the other tests sees reads."""
    pull, params, opt = trained(backend, 1)
    with backend.watched_reads() as reads:
        pull.run(opt, params, 1, 2)
    assert same_tensors(reads, [params])


@both_optimizers
def test_nothing_is_read_during_a_warm_start(name, backend):
    """Then R once, of the weights at its end, where no kernel has run before; and after that it is known."""
    pull = Pull(shapes(backend), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make(name, params, "warm_start", fused=True, kappa_init_param=10)
    pull.run(opt, params, 0, 2)
    with backend.watched_reads() as reads:
        pull.run(opt, params, 2, 10)
        assert reads == []
        expected = exact(params).tolist()
        pull.run(opt, params, 10, 16)
    assert len(reads) == (1 if backend.device == "cpu" else 0)  # on a GPU kernels run in a warm start, too
    assert [constraint.kappa for constraint in opt.constraints()] == pytest.approx(expected, rel=1e-6)


@both_optimizers
def test_a_second_warm_start(name, backend):
    """What was known before it is not taken for R at its end, though no element that is compared has changed."""
    pull = Pull(shapes(backend), dtype=torch.float32)
    params = pull.params(backend.device)
    opt = make(name, params, "warm_start", fused=True, kappa_init_param=10)
    pull.run(opt, params, 0, 14)
    for p in params:
        state = opt.state[p]
        for buffer in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if buffer in state:
                state[buffer].zero_()
        state.update({k: torch.tensor(v, device=p.device) for k, v in (("kappa", math.inf), ("lagmul", 0.0))})
        state["cpr_step"] = torch.tensor(5.0, device=p.device)
    for _ in range(5):
        for p in params:
            p.grad = torch.zeros_like(p)
            p.grad.view(-1)[UNSAMPLED] = 1.0
        opt.step()
    expected = exact(params).tolist()
    with backend.watched_reads() as reads:
        pull.run(opt, params, 15, 17)
    assert len(reads) == (1 if backend.device == "cpu" else 0)
    assert [constraint.kappa for constraint in opt.constraints()] == pytest.approx(expected, rel=1e-6)


def nothing(param, backend):
    pass


def in_place(param, backend):
    with torch.no_grad():
        param.view(-1)[UNSAMPLED] = 3.0


def loaded(param, backend):
    torch.nn.ParameterList([param]).load_state_dict({"0": 0.9 * param.detach()})


def replaced(param, backend):
    other = param.data.clone()
    other.view(-1)[UNSAMPLED] = 3.0
    param.data = other


def ema_swap(param, backend):
    param.data.copy_(0.9 * param.data)


def one_chunk(param, backend):
    param.data.view(-1)[backend.chunk :] *= 2


def optimizers_step(param, backend):
    param.grad = torch.ones_like(param)
    torch.optim.SGD([param], lr=0.01).step()


def fused_optimizers_step(param, backend):
    param.grad = torch.ones_like(param)
    torch.optim.SGD([param], lr=0.1, fused=True).step()


def through_numpy(param, backend):
    if backend.device == "cuda":
        pytest.skip("NumPy does not see a GPU's memory")
    param.detach().numpy()[:] *= 0.9


EDITS = [
    nothing,
    in_place,
    loaded,
    replaced,
    ema_swap,
    one_chunk,
    optimizers_step,
    fused_optimizers_step,
    through_numpy,
]


@both_optimizers
@pytest.mark.parametrize("edit", EDITS)
def test_weights_changed_between_steps_are_read_again(name, edit, backend):
    """And only these. All is bit for bit the run of an optimizer that reads R at every step."""
    ends = []
    for knowing in (True, False):
        pull, params, opt = trained(backend, 3, name)
        edit(params[1], backend)
        if knowing:
            assert are_of_the_weights(backend.norms(opt, params), params)
            with backend.watched_reads() as reads:
                pull.run(opt, params, 3, 4)
            assert same_tensors(reads, [] if edit is nothing else [[params[1]]])
        for step in range(4 if knowing else 3, 6):
            if not knowing:
                read_again(params)
            pull.run(opt, params, step, step + 1)
        ends.append(bits(params) + [torch.tensor(constraint.lagmul) for constraint in opt.constraints()])
    assert_same_bits(*ends)


def test_an_edit_that_nothing_notices_is_in_the_next_r(backend):
    """The one kind that the docstrings of the caches admit: R is that of the true weights one step later."""
    pull, params, opt = trained(backend, 3)
    params[1].data.view(-1)[UNSAMPLED] = 300.0
    assert not are_of_the_weights(backend.norms(opt, params), params)
    pull.run(opt, params, 3, 4)
    assert are_of_the_weights(backend.norms(opt, params), params)
    with backend.edited_unnoticed(params):  # and R is known again, rather than read
        assert not are_of_the_weights(backend.norms(opt, params), params)


def test_a_step_that_leaves_a_tensor_out(backend):
    """It is read again once it is back, unless its R is kept; the others are known throughout."""
    pull, params, opt = trained(backend, 3, more=[(3, 4)])
    for p, grad in zip(params, pull.grads(params, 3), strict=True):
        p.grad = None if p is params[1] else grad
    with backend.watched_reads() as reads:
        opt.step()
    assert reads == []
    assert are_of_the_weights(backend.norms(opt, [params[0], params[2]]), [params[0], params[2]])
    with backend.watched_reads() as reads:
        pull.run(opt, params, 4, 5)
    # The GPU kernels know only the tensors of the last step.
    assert same_tensors(reads, [[params[1]]] if backend.name == "triton" else [])
    assert are_of_the_weights(backend.norms(opt, params), params)
    in_place(params[2], backend)
    with backend.watched_reads() as reads:
        pull.run(opt, params, 5, 6)
    assert same_tensors(reads, [[params[2]]])
    assert are_of_the_weights(backend.norms(opt, params), params)
    params[2].data.view(-1)[UNSAMPLED] = 300.0  # nothing notices
    # Nor is it read where others are left out.
    assert not are_of_the_weights(backend.norms(opt, params[1:]), params[1:])


@both_optimizers
def test_torchs_own_fused_steps_in_between_are_noticed(name, backend):
    """torch does not count them, and no gradient reaches the elements compared, as in an embedding."""
    param = torch.nn.Parameter(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).to(backend.device))
    opt = make(name, [param], "uniform", kappa_init_param=60.0, kappa_update=0.05, lr=0.05, fused=True)
    trained = torch.ones(100, device=backend.device)
    trained[[0, 33, 66, 99]] = 0
    for step in range(30):
        if step in (10, 20):  # a user takes the bound away and sets another
            opt.state[param]["kappa"].fill_(math.inf if step == 10 else 1.0)
            opt.state[param]["lagmul"].zero_()
        param.grad = trained.view(10, 10) * param.detach().sign()
        true = float((param.detach().double() ** 2).sum())
        before = float(opt.state[param]["lagmul"]) if step else 0.0
        opt.step()
        kappa = float(opt.state[param]["kappa"])
        if kappa != math.inf:
            expected = max(0.0, before + 0.05 / 100 * (true - kappa))
            assert float(opt.state[param]["lagmul"]) == pytest.approx(expected, rel=1e-5, abs=1e-9), step
        assert step != 20 or expected > 0
    # The C kernels leave tensors without a bound to torch.
    assert len(backend.updated) == (19 if backend.name == "c" else 29)


def test_another_parameter_in_the_same_memory_is_another(backend):
    """Also where torch has counted as many changes of it."""
    pull, params, opt = trained(backend, 3)
    other = torch.nn.Parameter(params[1].data)
    in_place(other, backend)
    for _ in range(params[1]._version - other._version):
        torch.autograd.graph.increment_version([other])
    assert other._version == params[1]._version
    opt.state[other] = opt.state.pop(params[1])
    opt.param_groups[0]["params"][1] = params[1] = other
    with backend.watched_reads() as reads:
        pull.run(opt, params, 3, 4)
    assert same_tensors(reads, [[other]])


def test_nothing_is_read_where_weights_lay_before(backend):
    """That memory may be gone, or hold something else."""
    pull, params, opt = trained(backend, 3)
    old = params[1].data
    params[1].data = old.clone()
    pull.run(opt, params, 3, 5)
    old.fill_(7.0)
    with backend.watched_reads() as reads:
        pull.run(opt, params, 5, 7)
    assert reads == []
    assert are_of_the_weights(backend.norms(opt, params), params)


def test_a_state_that_moves_is_found(backend):
    """As one that was offloaded and brought back."""
    ends = []
    for moving in (True, False):
        pull, params, opt = trained(backend, 3)
        state, old = opt.state[params[1]]["exp_avg"], None
        if moving:
            old = state.data
            state.data = old.clone()
            old.fill_(math.nan)
        pull.run(opt, params, 3, 6)
        ends.append(bits(params) + bits([state]))
    assert_same_bits(*ends)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_do_not_take_it_along(copied, backend):
    pull, params, opt = trained(backend, 3)
    others, other = copied((params, opt))
    with backend.watched_reads() as reads:
        pull.run(other, others, 3, 6)
    assert same_tensors(reads, [others])
    pull.run(opt, params, 3, 6)
    assert_same_bits(bits(params), bits(others))


@both_optimizers
@pytest.mark.parametrize("factor", [math.inf, -math.inf])
def test_the_end_of_a_tensor_adds_nothing_to_a_diverged_one(name, factor, backend):
    """Beyond it an update may compute 0 * inf; a resumed training, which reads R, must find what was added up."""
    pull = Pull(((backend.chunk // 2 + 3, 1),), dtype=torch.float32)
    (p,) = params = pull.params(backend.device)
    opt = make_fused(params, name, **FUSED_BOUND)
    pull.run(opt, params, 0, 2)
    backend.update(opt, params, factors=[factor])
    assert float(backend.norms(opt, params)) == math.inf == float(p.detach().square().sum())
    read_again(params)
    assert float(backend.norms(opt, params)) == math.inf
