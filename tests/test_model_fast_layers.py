"""model/fast_layers.py: the same layers as Paddle's to rounding, gradients too, in whatever way they are used."""

import copy
from contextlib import ExitStack

import numpy as np
import paddle
import pytest
from paddle import nn

import model.fast_conv
from model.fast_layers import FastConv2D, FastSequential, fast_layers
from model.model_base import ModelBase
from trainer.trainer_base import TrainerBase

# Images (B, C, H, W), filters, and arguments of Conv2D.
SHAPES = {
    "one channel": ((10, 1, 28, 28), 8, {"kernel_size": 5}),
    "many channels": ((3, 16, 9, 9), 12, {"kernel_size": 5}),
    "padding": ((2, 3, 11, 8), 4, {"kernel_size": 3, "padding": 1}),
    "padding wider than the kernel": ((2, 2, 5, 5), 3, {"kernel_size": 2, "padding": 3}),
    "padding of four kinds": ((2, 3, 9, 8), 4, {"kernel_size": 3, "padding": [0, 1, 2, 3]}),
    "strides": ((2, 3, 13, 10), 4, {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0)}),
    "strides wider than the kernel": ((2, 5, 10, 10), 4, {"kernel_size": 2, "stride": 3}),
    "kernel of one": ((2, 6, 7, 7), 5, {"kernel_size": 1}),
    "kernel as large as the image": ((4, 3, 5, 6), 7, {"kernel_size": (5, 6)}),
    "no bias": ((2, 4, 8, 8), 3, {"kernel_size": 3, "bias_attr": False}),
    "one image": ((1, 2, 20, 20), 6, {"kernel_size": 3, "padding": "VALID"}),
}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(model.fast_conv, "_WORTH", 0)
    monkeypatch.setattr(model.fast_conv, "is_worth_it", lambda *shapes: True)
    monkeypatch.setattr(model.fast_layers, "is_worth_it", lambda *shapes: True)


@pytest.fixture
def twins():
    """Makes of a model two with equal parameters, of which the second is faster."""
    with ExitStack() as stack:

        def make(net):
            other = copy.deepcopy(net)
            stack.enter_context(fast_layers(other))
            assert list(other.state_dict()) == list(net.state_dict())
            return net, other

        yield make


def outcome(net, images, upstream, *, of_images=True):
    """Outputs and gradients, of images and then of parameters."""
    x = paddle.to_tensor(images, stop_gradient=not of_images)
    y = net(x)
    (y * paddle.to_tensor(upstream[: y.size].reshape(y.shape))).sum().backward()
    grads = [each.grad for each in (x, *net.parameters())]
    return [y.numpy(), *(None if each is None else each.numpy() for each in grads)]


def check_same(plain, fast, images):
    upstream = np.random.default_rng(1).normal(size=100_000).astype("float32")
    for of_images in (True, False):
        pairs = zip(*(outcome(each, images, upstream, of_images=of_images) for each in (plain, fast)), strict=True)
        for theirs, ours in pairs:
            assert (ours is None) == (theirs is None)
            if ours is not None:
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    with paddle.no_grad():
        np.testing.assert_array_equal(fast(paddle.to_tensor(images)), outcome(fast, images, upstream)[0])


def images_of(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("blocks", ["one block", "many blocks"])
@pytest.mark.parametrize("case", SHAPES)
def test_convolution_and_its_gradients_are_paddles_own(case, blocks, monkeypatch, twins):
    if blocks == "many blocks":
        monkeypatch.setattr(model.fast_conv, "_AT_ONCE", 1)
    shape, filters, arguments = SHAPES[case]
    net = nn.Conv2D(shape[1], filters, **arguments)
    plain, fast = twins(net)
    assert type(fast) is FastConv2D
    check_same(plain, fast, images_of(shape))


@pytest.mark.parametrize("blocks", ["one block", "many blocks"])
@pytest.mark.parametrize("behind", [[nn.ReLU], [nn.ReLU, nn.MaxPool2D], [nn.MaxPool2D, nn.ReLU], [nn.MaxPool2D]])
@pytest.mark.parametrize("side", [12, 13])
def test_what_follows_a_convolution_is_done_with_it(behind, side, blocks, monkeypatch, twins):
    if blocks == "many blocks":
        monkeypatch.setattr(model.fast_conv, "_AT_ONCE", 5000)
    layers = [kind(2) if kind is nn.MaxPool2D else kind() for kind in behind]
    net = nn.Sequential(nn.Conv2D(3, 6, 3), *layers, nn.Conv2D(6, 5, 3, padding=1), *layers, nn.Flatten())
    check_same(*twins(net), images_of((5, 3, side, side)))


def test_of_equal_numbers_the_first_gets_the_gradient(twins):
    """A window of 2 x 2 equal outputs: 4 x 4 ones, kernel 1, so each window gives its gradient to its first pixel."""
    net = nn.Sequential(nn.Conv2D(1, 1, 1, bias_attr=False), nn.MaxPool2D(2))
    net[0].weight.set_value(np.ones((1, 1, 1, 1), "float32"))
    _, net = twins(net)
    x = paddle.ones([1, 1, 4, 4])
    x.stop_gradient = False
    (net(x) * paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert x.grad.tolist() == [[[[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]]]


def test_what_is_held_fixed_gets_no_gradient(twins):
    _, net = twins(nn.Conv2D(2, 3, 3))
    net.weight.stop_gradient = True
    net(paddle.rand([2, 2, 8, 8])).sum().backward()
    assert net.weight.grad is None
    np.testing.assert_allclose(net.bias.grad.numpy(), 2 * 6 * 6)


def test_equal_bits_each_time(twins):
    images, upstream = images_of((10, 3, 16, 16)), np.ones(100_000, "float32")
    results = []
    for _ in range(2):
        paddle.seed(1)
        _, net = twins(nn.Sequential(nn.Conv2D(3, 8, 3), nn.ReLU(), nn.Conv2D(8, 4, 3)))
        results.append(outcome(net, images, upstream))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_behind_it_all_is_paddles_again_even_after_a_failure():
    net = nn.Sequential(nn.Conv2D(1, 2, 3), nn.Sequential(nn.ReLU()))
    seen = []

    def fail():
        with fast_layers(net), fast_layers(net):
            seen.extend(map(type, net.sublayers(include_self=True)))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert seen == [FastSequential, FastConv2D, FastSequential, nn.ReLU]
    assert list(map(type, net.sublayers(include_self=True))) == [nn.Sequential, nn.Conv2D, nn.Sequential, nn.ReLU]


class Net(ModelBase):
    """A convolution alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.kinds = nn.Conv2D(1, 4, 5), []

    def loss(self, batch):
        self.kinds.append(type(self.conv))
        return self.conv(batch["x"]).square().mean(), {}


class Trainer(TrainerBase):
    """Trains it."""

    def make_model(self):
        return Net()


@pytest.mark.parametrize("fast", [True, False])
def test_a_trainer_uses_it_unless_told_not_to(fast):
    class User:
        rng = None

        def before_batch(self, batch, again):
            pass

        def before_step(self):
            pass

    trainer = Trainer(batch_size=10, lr=0.1)
    trainer.fast_layers = fast
    paddle.seed(0)
    net, examples = trainer.make_model(), {"x": images_of((20, 1, 12, 12))}
    trainer.train_user(net, examples, User())
    trainer.evaluate_user(net, examples, User())
    assert net.kinds == 4 * [FastConv2D if fast else nn.Conv2D]
    assert type(net.conv) is nn.Conv2D


class Doubling(nn.Conv2D):
    """A layer of a user's own."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        Doubling(4, 4, 3), nn.Conv2D(4, 4, 3, groups=2), nn.Conv2D(4, 4, 3, dilation=2),
        nn.Conv2D(4, 4, 3, padding="SAME"), nn.Conv2D(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2D(4, 4, 3, data_format="NHWC"), nn.Conv2DTranspose(4, 4, 3), nn.Conv1D(4, 4, 3),
    ],
    ids=lambda layer: repr(layer),
)  # fmt: skip
def test_other_convolutions_are_left_alone(layer):
    kind = type(layer)
    with fast_layers(nn.Sequential(layer)) as net:
        assert type(net[0]) is kind


def test_paddle_does_other_dtypes_and_small_images(monkeypatch, twins):
    monkeypatch.undo()
    _, net = twins(nn.Conv2D(1, 8, 5))
    monkeypatch.setattr(model.fast_layers, "fast_conv2d", lambda *all: pytest.fail("not Paddle's"))
    assert net(paddle.rand([2, 1, 8, 8])).shape == [2, 8, 4, 4]
    with pytest.raises(ValueError, match="channel"):
        net(paddle.rand([10, 2, 28, 28]))
    net.to(dtype="float64")
    assert net(paddle.rand([10, 1, 28, 28], dtype="float64")).dtype == paddle.float64


def test_hooks_within_a_sequence_are_called(twins):
    plain, net = twins(nn.Sequential(nn.Conv2D(1, 2, 3), nn.ReLU(), nn.MaxPool2D(2)))
    assert type(net) is FastSequential
    seen = []
    net[1].register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    x = paddle.to_tensor(images_of((4, 1, 8, 8)))
    pooled = net(x)
    np.testing.assert_allclose(seen[0].numpy(), plain[1](plain[0](x)).numpy(), atol=1e-6)
    np.testing.assert_allclose(pooled.numpy(), plain(x).numpy(), atol=1e-6)


def test_copies_work_on_their_own_weights(twins):
    _, net = twins(nn.Conv2D(1, 2, 3))
    other = copy.deepcopy(net)
    other.weight.set_value(paddle.zeros_like(other.weight))
    other.bias.set_value(paddle.zeros_like(other.bias))
    x = paddle.ones([1, 1, 5, 5])
    assert float(other(x).abs().sum()) == 0 < float(net(x).abs().sum())


def test_a_second_derivative_is_refused_with_what_to_do(twins):
    _, net = twins(nn.Conv2D(1, 2, 3))
    loss = net(paddle.rand([2, 1, 8, 8])).square().sum()
    with pytest.raises(OSError, match="fast_layers = False"):
        paddle.grad(loss, net.parameters(), create_graph=True)


def test_it_can_be_exported(tmp_path, twins):
    plain, net = twins(nn.Sequential(nn.Conv2D(1, 2, 3), nn.ReLU(), nn.MaxPool2D(2)))
    net.eval()
    paddle.jit.save(net, str(tmp_path / "net"), input_spec=[paddle.static.InputSpec([None, 1, 8, 8])])
    x = paddle.to_tensor(images_of((4, 1, 8, 8)))
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "net"))(x).numpy(), plain(x).numpy(), atol=1e-6)
