"""simulator/worker/model_state.py: all of a model is put back, whatever a user's turn has done to it."""

import numpy as np
import paddle
import pytest
from paddle import nn

from protos.errors import BadInput
from simulator.worker.model_state import ModelState
from trainer.local_sgd import LocalSGD


class Net(nn.Layer):
    """A parameter shared by two layers, a frozen one, buffers of several kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1D(2)
        self.norm.eval()
        self.squash = nn.ReLU()
        self.first.bias.stop_gradient = True
        self.register_buffer("seen", paddle.zeros([2]))
        self.register_buffer("steps", paddle.zeros([1], dtype="int64"))
        self.register_buffer("unset", None)
        self.calls, self.kept = 0, None

    def forward(self, x):
        return self.norm(self.second(self.first(x)))


@pytest.fixture
def state():
    made = ModelState(Net(), ("norm.*",))
    made.load({name: np.full(spec.shape, i + 1, "float32") for i, (name, spec) in enumerate(made.specs.items())})
    return made


def start_of(state):
    return {name: state.read(name).copy() for name in state.specs}


def shared_of(state, start):
    return {name: start[name] for name in state.shared}


def everything(state):
    """All that can be seen of the model, tensors by identity and by value."""
    model = state.model
    return {
        name or ".": (
            {key: id(value) for key, value in vars(layer).items() if key != "_built"},
            {key: (id(t), t.data_ptr(), t.dtype, list(t.shape), t.stop_gradient, t.grad is None, t.numpy().tolist())
             for kind in ("_parameters", "_buffers") for key, t in getattr(layer, kind).items() if t is not None},
            [key for kind in ("_parameters", "_buffers", "_sub_layers") for key in getattr(layer, kind)],
            list(layer._forward_pre_hooks), list(layer._forward_post_hooks),
        )
        for name, layer in model.named_sublayers(include_self=True)
    }  # fmt: skip


def step(model, **settings):
    loss = (model(paddle.to_tensor([[1.0, 2.0], [3.0, 5.0]])) ** 2).sum()
    loss.backward()
    paddle.optimizer.Adam(0.1, parameters=model.parameters(), **settings).step()


def in_place(model):
    with paddle.no_grad():
        model.first.weight.add_(paddle.ones([2, 2]))
        model.steps.add_(paddle.to_tensor([7]))
        model.first.weight.reshape_([4])
    model.second.bias.set_value(np.zeros(2, "float32"))


def other_tensors(model):
    model.seen = 0.9 * model.seen + model.first.weight.sum(0)
    model.steps = model.steps + 1
    model.first.weight = paddle.create_parameter([2, 2], "float32")
    model.norm._mean = paddle.create_parameter([2], "float32")


def other_memory(model):
    model.second.bias.data = paddle.zeros([2])
    model.seen.data = paddle.zeros([3], dtype="float64")
    model.first.to(dtype="float64")


def attributes(model):
    model.calls += 1
    model.kept = paddle.ones([5])  # Paddle makes it a buffer
    model.new = "x"
    del model.first.name


def modes_and_flags(model):
    model.train()
    model.first.bias.stop_gradient = False
    model.second.bias.trainable = False


def structure(model):
    model.more = nn.Linear(2, 2)
    model.first.extra = paddle.create_parameter([1], "float32")
    model.register_buffer("late", paddle.ones([1]))
    model.norm = nn.BatchNorm1D(2)
    model.unset = paddle.ones([1])
    model.second.bias = None
    model.seen = None
    model.register_forward_post_hook(lambda layer, given, result: result * 2)


TURNS = [step, in_place, other_tensors, other_memory, attributes, modes_and_flags, structure]


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: turn.__name__)
def test_everything_is_put_back(state, turn):
    start, before = start_of(state), everything(state)
    turn(state.model)
    assert everything(state) != before
    # As a share does between two users, with what a user's own and the sums' put-back set.
    state.put_back(shared_of(state, start))
    state.load(start)
    assert everything(state) == before


def test_turns_of_many_kinds_one_after_another_leave_a_model_that_trains_as_before(state):
    def trained(model):
        step(model)
        return {name: state.read(name).tobytes() for name in state.specs}

    start, before = start_of(state), everything(state)
    expected = trained(state.model)
    for turn in TURNS * 2:
        state.put_back(shared_of(state, start))
        state.load(start)
        turn(state.model)
    state.put_back(shared_of(state, start))
    state.load(start)
    assert everything(state) == before
    assert trained(state.model) == expected


def test_a_tensor_that_is_read_is_the_one_that_is_there_now(state):
    """0.9 * 4 + 1: what the usual idiom of a running mean puts in the place of the buffer."""
    state.load({"seen": np.full(2, 4, "float32")})
    state.model.seen = 0.9 * state.model.seen + 1
    assert state.read("seen") == pytest.approx([4.6, 4.6])
    state.model.second.bias.data = paddle.full([2], 9.0)
    assert state.read("second.bias").tolist() == [9, 9]


def test_writing_to_what_was_read_of_another_tensor_reaches_no_other(state):
    """A buffer that is a view of a parameter: what puts the buffer back must not write to the parameter."""
    state.model.seen = state.model.first.weight[0]
    weight = state.read("first.weight").copy()
    state.read("seen")[...] = 77
    assert state.read("first.weight").tolist() == weight.tolist()


def test_shared_parameters_are_taken_over_where_they_go_on_from_user_to_user(state):
    state.model.seen = state.model.seen + 1
    state.model.second.bias.data = paddle.full([2], 9.0)
    now = start_of(state)
    state.put_back(None)
    after = start_of(state)
    assert {name: after[name].tolist() for name in state.shared} == {name: now[name].tolist() for name in state.shared}
    assert state.model.seen is state._places["seen"].tensor
    assert state._places["seen"].kept


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (lambda m: setattr(m, "seen", paddle.ones([3])), r"'seen' float32\[3\], it was float32\[2\]"),
        (lambda m: setattr(m, "seen", m.seen.astype("float64")), r"'seen' float64\[2\], it was float32\[2\]"),
        (lambda m: m.second.bias.reshape_([1, 2]), r"'second.bias' float32\[1, 2\], it was float32\[2\]"),
    ],
)
def test_another_shape_or_dtype_is_refused_by_name(state, turn, told):
    with paddle.no_grad():
        turn(state.model)
    with pytest.raises(BadInput, match=told):
        start_of(state)


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (lambda m: setattr(m, "more", nn.Linear(1, 1)), "has added layer 'more'"),
        (lambda m: setattr(m, "norm", nn.BatchNorm1D(2)), "has replaced layer 'norm'"),
        (lambda m: setattr(m.first, "more", paddle.create_parameter([1], "float32")), "added parameter 'first.more'"),
        (lambda m: setattr(m.first, "bias", None), "has removed parameter 'first.bias'"),
        (lambda m: m.register_buffer("late", paddle.ones([1])), "has added buffer 'late'"),
        (lambda m: setattr(m, "unset", paddle.ones([1])), "has added buffer 'unset'"),
        (lambda m: delattr(m, "seen"), "has removed buffer 'seen'"),
        (lambda m: setattr(m.second, "weight", paddle.create_parameter([2, 2], "float32")),
         "other tensors in the places of 'first.weight' and 'second.weight'"),
    ],
)  # fmt: skip
def test_another_structure_is_refused_by_name(state, turn, told):
    turn(state.model)
    with pytest.raises(BadInput, match=told):
        state.check_structure()


def layers_without_tensors(model):
    model.more = nn.Dropout()
    model.squash = nn.Sequential(nn.Tanh(), nn.ReLU())


KEEPING = [step, in_place, other_tensors, attributes, modes_and_flags, layers_without_tensors]


@pytest.mark.parametrize("turn", KEEPING, ids=lambda turn: turn.__name__)
def test_a_turn_that_keeps_the_structure_is_not_refused(state, turn):
    if turn is other_tensors:
        state.model.second.weight = paddle.create_parameter([2, 2], "float32")
    turn(state.model)
    if turn is other_tensors:
        state.model.second.weight = state.model.first.weight
    state.check_structure()


def test_a_local_optimizer_is_not_for_a_model_whose_parameters_were_replaced(state):
    model = state.model
    sgd = LocalSGD(model, 0.1, None)
    assert sgd.is_for(model, 0.1, None)
    start = start_of(state)
    model.second.bias = paddle.create_parameter([2], "float32")
    assert not sgd.is_for(model, 0.1, None)
    state.put_back(shared_of(state, start))
    assert sgd.is_for(model, 0.1, None)


def test_a_buffer_that_is_a_view_gets_memory_of_its_own():
    model = nn.Linear(2, 2)
    whole = paddle.arange(6, dtype="float32").reshape([2, 3])
    model.register_buffer("turned", whole.t())
    state = ModelState(model, ())
    assert state.read("turned").tolist() == [[0, 3], [1, 4], [2, 5]]
    state.read("turned").reshape(-1)[:] = 7
    assert model.turned.numpy().tolist() == [[7, 7]] * 3
    assert whole.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_paddles_switches_are_put_back(state):
    paddle.set_grad_enabled(False)
    paddle.set_default_dtype("float64")
    state.put_back(shared_of(state, start_of(state)))
    assert paddle.is_grad_enabled()
    assert paddle.get_default_dtype() == "float32"


def test_what_changed_is_seen_to_the_bit(state):
    start = start_of(state)
    start["seen"][0] = np.nan
    state.load(start)
    assert state.changed(start, start) == []
    state.read("seen")[1] = -0.0 if start["seen"][1] == 0 else np.nextafter(start["seen"][1], 9, dtype="float32")
    assert state.changed(start, start) == ["seen"]
