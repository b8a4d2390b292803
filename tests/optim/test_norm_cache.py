"""R that is added up while the weights are written: the R of these weights, never of others."""

import copy
import ctypes
import gc
import pickle
import weakref

import pytest
import torch
from optim_helpers import CLASSES, Pull, assert_same_bits, batch_of, bits, cache_of, make, plain_path

from nnunet_cpr.optim import fused
from nnunet_cpr.optim.fused import c_backend, c_build
from nnunet_cpr.optim.fused.norm_cache import _CachedNorm

SHAPES = ((7, 5), (130, 257), (4, 3, 3, 3))
CHUNK = 8192  # of the C source
pytestmark = pytest.mark.skipif(c_build.kernels() is None, reason="no C compiler, or not Linux")
UNSAMPLED = 5  # an element that is not among the few compared


def build(name, params):
    """Bounds that are violated at every step from the second on."""
    return make(name, params, "dependent", kappa_init_param=0.5, kappa_update=0.05, fused=True)


@pytest.fixture
def read(monkeypatch):
    """The tensors that were read to find R, one entry a call."""
    seen = []
    original = c_backend.read_squared_norms

    def noted(params):
        seen.append(list(params))
        return original(params)

    monkeypatch.setattr(c_backend, "read_squared_norms", noted)
    return seen


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_update_returns_what_reading_would(name, threads, monkeypatch):
    pairs = []
    original = c_backend.run_update

    def compared(batch, layout, indices, factors):
        sums = original(batch, layout, indices, factors)
        params = [batch.params[index] for index in indices]
        exact = torch.stack([p.detach().double().square().sum() for p in params])
        pairs.append((sums, c_backend.read_squared_norms(params), exact))
        return sums

    monkeypatch.setattr(c_backend, "run_update", compared)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pull = Pull(shapes=[(n, 1) for n in (1, 17, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77)], dtype=torch.float32)
        params = pull.params()
        pull.run(build(name, params), params, 0, 12)
    finally:
        torch.set_num_threads(before)
    assert len(pairs) > 5
    for returned, found, exact in pairs:
        assert torch.equal(returned, found)
        torch.testing.assert_close(returned, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_read_while_the_constraints_act(name, read):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build(name, params)
    pull.run(opt, params, 0, 6)
    assert all(c.active for c in opt.constraints())
    assert read
    read.clear()
    pull.run(opt, params, 6, 20)
    assert read == []


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_read_during_a_warm_start(name, read):
    """Then R once, of the weights at its end; and after that it is known."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = make(name, params, "warm_start", fused=True)  # 30 steps
    pull.run(opt, params, 0, 1)
    read.clear()
    pull.run(opt, params, 1, 30)
    assert read == []
    exact = [float((p.detach().double() ** 2).sum()) for p in params]
    pull.run(opt, params, 30, 40)
    assert len(read) == 1
    assert [c.kappa for c in opt.constraints()] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_a_second_warm_start(name, read):
    """What was known before it is not taken for R at its end, though no element that is compared has changed."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = make(name, params, "warm_start", fused=True)
    pull.run(opt, params, 0, 40)
    for p in params:
        state = opt.state[p]
        for buffer in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if buffer in state:
                state[buffer].zero_()
        state.update(cpr_step=torch.tensor(25.0), kappa=torch.tensor(float("inf")), lagmul=torch.tensor(0.0))
    for _ in range(5):
        for p in params:
            p.grad = torch.zeros_like(p)
            p.grad.view(-1)[UNSAMPLED] = 1.0
        opt.step()
    exact = [float((p.detach().double() ** 2).sum()) for p in params]
    read.clear()
    pull.run(opt, params, 45, 47)
    assert len(read) == 1
    assert [c.kappa for c in opt.constraints()] == pytest.approx(exact, rel=1e-6)


@pytest.fixture
def swapping():
    """Models are moved, cast and loaded by swapping their tensors, as FSDP2 has it."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("shape", [(7, 5), (3000, 5)], ids=["small", "in pieces"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_can_be_moved_and_loaded_afterwards(name, shape, swapping):
    """torch refuses it while anything refers to a weight weakly, or as the base of a view."""
    model = torch.nn.Linear(*shape)
    opt = build(name, model.parameters())
    for _ in range(4):
        opt.zero_grad()
        model(torch.ones(2, shape[0])).sum().backward()
        opt.step()
    opt.zero_grad()
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    assert model.to(torch.float64).weight.dtype is torch.float64


@pytest.mark.parametrize("name", CLASSES)
def test_two_of_three_tensors_are_bounded_in_turn(name, monkeypatch):
    """As many as in the step before, but others; the weights, states and updates of these, not of the first two."""
    done = []
    original = c_backend.run_update

    def noted(batch, layout, indices, factors):
        done.append(list(indices))
        return original(batch, layout, indices, factors)

    monkeypatch.setattr(c_backend, "run_update", noted)
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    runs = []
    for plain in (True, False):
        with monkeypatch.context() as patch:
            if plain:
                plain_path(patch)
            params = pull.params()
            opt = build(name, params)
            pull.run(opt, params, 0, 2)
            for step in range(2, 12):
                for number, param in enumerate(params):
                    free = number == step % 3
                    opt.state[param]["kappa"].fill_(float("inf") if free else 1.0)
                    if free:
                        opt.state[param]["lagmul"].zero_()
                pull.run(opt, params, step, step + 1)
            runs.append((params, [opt.state[p] for p in params]))
    assert done[-3:] == [[1, 2], [0, 2], [0, 1]]
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def test_a_training_goes_on_without_the_kernels():
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    runs = []
    for switch in (False, True):
        params = pull.params()
        opt = build("Adam", params)
        pull.run(opt, params, 0, 6)
        with fused.use(None if switch else "c"):
            pull.run(opt, params, 6, 12)
        runs.append((params, [opt.state[p] for p in params]))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


def optimizers_step(param):
    param.grad = torch.ones_like(param)
    torch.optim.SGD([param], lr=0.01).step()


def ema_swap(param):
    param.data.copy_(0.9 * param.data)


def through_numpy(param):
    param.detach().numpy()[:] *= 0.9


def replaced(param):
    other = param.data.clone()
    other.view(-1)[UNSAMPLED] = 3.0
    param.data = other


def in_place(param):
    with torch.no_grad():
        param.view(-1)[UNSAMPLED] = 3.0


def loaded(param):
    module = torch.nn.ParameterList([param])
    module.load_state_dict({"0": 0.9 * param.detach()})


def nothing(param):
    pass


EDITS = [nothing, in_place, loaded, replaced, ema_swap, through_numpy, optimizers_step]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", CLASSES)
def test_weights_changed_between_steps_are_read_again(name, edit, monkeypatch, read):
    """Bit for bit the run of an optimizer that reads R at every step."""
    ends = []
    for remembering in (True, False):
        pull = Pull(shapes=SHAPES, dtype=torch.float32)
        params = pull.params()
        opt = build(name, params)
        if not remembering:
            monkeypatch.setattr(_CachedNorm, "set", lambda *_: None)
        pull.run(opt, params, 0, 10)
        read.clear()
        edit(params[1])
        pull.run(opt, params, 10, 11)
        if remembering:
            assert [[p is params[1] for p in some] for some in read] == ([] if edit is nothing else [[True]])
        pull.run(opt, params, 11, 20)
        ends.append(bits(params) + [c.lagmul * torch.ones(1) for c in opt.constraints()])
    assert_same_bits(*ends)


def test_a_step_that_leaves_a_tensor_out(read):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 10)
    read.clear()
    for p, grad in zip(params, pull.grads(params, 10), strict=True):
        p.grad = None if p is params[0] else grad
    opt.step()
    pull.run(opt, params, 11, 13)
    assert read == []


@pytest.mark.parametrize("name", CLASSES)
def test_torchs_own_fused_steps_in_between_are_noticed(name, read):
    """torch does not count them, and no gradient reaches the elements compared, as in an embedding."""
    param = torch.nn.Parameter(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)))
    opt = make(name, [param], "uniform", kappa_init_param=60.0, kappa_update=0.05, lr=0.05, fused=True)
    trained = torch.ones(100)
    trained[[0, 33, 66, 99]] = 0
    for step in range(30):
        if step in (10, 20):  # a user takes the bound away and sets another
            opt.state[param]["kappa"].fill_(float("inf") if step == 10 else 50.0)
            opt.state[param]["lagmul"].zero_()
        param.grad = trained.view(10, 10) * param.detach().sign()
        true = float((param.detach().double() ** 2).sum())
        before = float(opt.state[param]["lagmul"]) if step else 0.0
        opt.step()
        kappa = float(opt.state[param]["kappa"])
        if kappa != float("inf"):
            expected = max(0.0, before + 0.05 / 100 * (true - kappa))
            assert float(opt.state[param]["lagmul"]) == pytest.approx(expected, rel=1e-5, abs=1e-9), step
    assert len(read) > 10


def test_another_parameter_in_the_same_memory_is_another(read):
    """Also where torch has counted as many changes of it."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 10)
    other = torch.nn.Parameter(params[1].data)
    in_place(other)
    for _ in range(params[1]._version - other._version):
        torch.autograd.graph.increment_version([other])
    assert other._version == params[1]._version
    opt.state[other] = opt.state.pop(params[1])
    opt.param_groups[0]["params"][1] = params[1] = other
    read.clear()
    pull.run(opt, params, 10, 11)
    assert [[p is other for p in some] for some in read] == [[True]]


def test_nothing_is_read_where_weights_lay_before():
    """That memory may be gone."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 10)
    params[1].data = params[1].data.clone()
    pull.run(opt, params, 10, 12)
    for norm, p in zip(cache_of(opt, "c")._norms, params, strict=True):
        offsets = [ctypes.addressof(element) - p.data_ptr() for element in norm._samples]
        assert offsets[0] == 0 and offsets[-1] == p.nbytes - 4


def test_a_state_that_moves_is_found():
    """As one that was offloaded and brought back."""
    ends = []
    for moving in (True, False):
        pull = Pull(shapes=SHAPES, dtype=torch.float32)
        params = pull.params()
        opt = build("Adam", params)
        pull.run(opt, params, 0, 10)
        state, old = opt.state[params[1]]["exp_avg"], None
        if moving:
            old = state.data
            state.data = old.clone()
            old.fill_(float("nan"))
        pull.run(opt, params, 10, 20)
        ends.append(bits(params) + bits([state]))
    assert_same_bits(*ends)


def other_dtype(opt, params):
    for p in params:
        p.data = p.data.double()
    opt.load_state_dict(opt.state_dict())  # casts the states


def not_fused(opt, params):
    for group in opt.param_groups:
        group["fused"] = False
    opt.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("change", [other_dtype, not_fused])
def test_states_of_old_are_not_kept(change):
    """They are as large as the weights."""
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 5)
    gone = [weakref.ref(opt.state[p]["exp_avg"]) for p in params]
    opt.zero_grad()
    change(opt, params)
    for p in params:
        opt.state[p] = {key: value.clone() for key, value in opt.state[p].items()}
        p.grad = torch.ones_like(p)
    opt.step()
    gc.collect()
    assert [state() for state in gone] == [None] * len(gone)


def test_parameters_replaced_again_and_again_are_not_kept():
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    gone = []
    for step in range(5):
        pull.run(opt, params, 2 * step, 2 * step + 2)
        gone.append(weakref.ref(params[0]))
        state = opt.state.pop(params[0])
        opt.param_groups[0]["params"][0] = params[0] = torch.nn.Parameter(torch.ones(7, 5))
        opt.state[params[0]] = state
    pull.run(opt, params, 10, 12)
    gc.collect()
    assert [param() for param in gone] == [None] * 5


def test_a_parameter_that_is_gone_is_not_kept():
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 5)
    gone = weakref.ref(params[0])
    opt.state.pop(params[0])
    opt.param_groups[0]["params"][0] = params[0] = torch.nn.Parameter(torch.ones(7, 5))
    opt.zero_grad()
    pull.run(opt, params, 5, 8)
    gc.collect()
    assert gone() is None


def test_an_uncounted_edit_of_one_element_is_in_the_next_r(read):
    """The one case that nothing notices, as its docstring says: R is of the true weights one step later."""
    pull = Pull(shapes=((130, 257),), dtype=torch.float32)
    (param,) = pull.params()
    opt = build("Adam", [param])
    pull.run(opt, [param], 0, 10)
    read.clear()
    param.data.view(-1)[UNSAMPLED] = 40.0
    pull.run(opt, [param], 10, 11)
    assert read == []
    cache, batch = cache_of(opt, "c"), batch_of(opt, [param])
    assert cache.bind(batch)
    found = cache.squared_norms(batch, c_backend.read_squared_norms)
    assert read == [] and float(found) == float(c_backend.read_squared_norms([param]).float())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_do_not_take_it_along(copied, read):
    pull = Pull(shapes=SHAPES, dtype=torch.float32)
    params = pull.params()
    opt = build("Adam", params)
    pull.run(opt, params, 0, 10)
    others, other = copied((params, opt))
    read.clear()
    pull.run(other, others, 10, 20)
    assert len(read) == 1
    pull.run(opt, params, 10, 20)
    assert_same_bits(bits(params), bits(others))
