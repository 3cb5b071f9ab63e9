"""A model is put back before every user: values, tensors, gradients, what trains; nothing is copied for nothing."""

import numpy as np
import paddle
import pytest
from leaky_model import LARGE, LeakyModel

from protos.errors import BadInput
from simulator.model_state import ModelState


@pytest.fixture
def state():
    return ModelState(LeakyModel(4, 3), ("norm.*",))


@pytest.fixture
def shared(state):
    return {name: state.read(name).copy() for name in state.shared}


def held(state, shared):
    return all(np.array_equal(state.read(name), value) for name, value in shared.items())


def test_names_are_those_of_the_model(state):
    assert state.shared == ["large", "out.weight", "out.bias", "seen", "trace"]
    assert state.private == ["norm.weight", "norm.bias", "norm._mean", "norm._variance"]


def test_a_buffer_that_was_assigned_is_read_as_it_is_now(state):
    state.model.seen = state.model.seen + 2
    assert state.read("seen").tolist() == [2, 2, 2, 2]


def test_an_assigned_buffer_is_put_back_and_its_tensor_too(state, shared):
    before = state.model.seen
    state.model.seen = state.model.seen + 2
    state.ready(shared)
    assert state.model.seen is before
    assert state.read("seen").tolist() == [0, 0, 0, 0]


def test_an_assigned_buffer_goes_on_where_users_train_in_turn(state):
    before = state.model.seen
    state.model.seen = state.model.seen + 2
    state.ready(None)
    assert state.model.seen is before
    assert state.read("seen").tolist() == [2, 2, 2, 2]


def test_what_a_user_replaced_after_changing_it_in_place_is_put_back(state, shared):
    state.model.seen.add_(paddle.ones([4]))
    state.model.seen = paddle.full([4], 7.0)
    state.ready(shared)
    assert state.read("seen").tolist() == [0, 0, 0, 0]


def test_small_parameters_are_put_back_after_a_test(state, shared):
    state.model.out.weight.set_value(np.ones((4, 3), "float32"))
    np.from_dlpack(state.model.out.bias.detach())[...] = 3
    state.ready(shared, compare=True)
    assert held(state, shared)


@pytest.mark.parametrize("change", ["set_value", "optimizer", "view", "one element"])
def test_large_parameters_are_put_back_however_they_were_changed(state, shared, change):
    large = state.model.large
    if change == "set_value":
        large.set_value(np.ones(LARGE, "float32"))
    elif change == "optimizer":
        (large * 2).sum().backward()
        paddle.optimizer.Adam(0.1, parameters=[large]).step()
    elif change == "view":
        np.from_dlpack(large.detach())[...] = 1
    else:
        np.from_dlpack(large.detach())[17] = 1
    assert not held(state, shared)
    assert state.restore_large(shared) == ["large"]
    assert held(state, shared)
    assert state.restore_large(shared) == []


def test_a_zero_that_changed_its_sign_has_changed(state, shared):
    np.copyto(state.read("trace"), -0.0)
    assert state.restore_large(shared) == ["trace"]
    assert not np.signbit(state.read("trace")).any()


def test_neither_nan_nor_what_is_alike_counts_as_a_change(state, shared):
    shared["trace"][3] = np.nan
    np.copyto(state.read("trace"), shared["trace"])
    assert state.restore_large(shared) == []


def test_whole_numbers_gradients_and_what_trains_are_put_back(state, shared):
    model = state.model
    model.calls += 5
    model.out.weight.stop_gradient = True
    (model.out.bias * 2).sum().backward()
    state.ready(shared)
    assert model.calls.tolist() == [0]
    assert model.out.weight.stop_gradient is False
    assert model.out.bias.grad is None


def test_a_buffer_of_another_shape_is_refused_by_name(state):
    state.model.seen = paddle.zeros([2])
    with pytest.raises(BadInput, match=r"'seen' of the model has become float32\[2\], it was made as float32\[4\]"):
        state.read("seen")


def test_a_buffer_that_is_gone_is_refused_by_name(state):
    state.model.seen = None
    with pytest.raises(BadInput, match="'seen' of the model is gone"):
        state.read("seen")


def test_parameters_that_were_added_are_refused(state, shared):
    state.model.out.register_buffer("more", paddle.zeros([1]))
    with pytest.raises(BadInput, match="other parameters or buffers than it was made with; make all in __init__"):
        state.ready(shared)
