"""examples/: each page runs on its small data as docs/examples.md says, and models are LEAF's."""

import importlib
import re
import shlex

import numpy as np
import pytest
from running import ROOT, metrics, params, run

EXAMPLES = ROOT / "examples"
DOC = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
PAGES = sorted(
    path.stem for path in EXAMPLES.glob("[a-z]*.py") if not path.stem.endswith("_model") and path.name != "make_data.py"
)
SETS = sorted(path.stem for path in (EXAMPLES / "small_data").glob("[a-z]*.py"))
# The one that runs in the default suite.
QUICK, SLOW = "synthetic", pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch):
    """A page's folder is where Python looks first when it runs."""
    monkeypatch.syspath_prepend(EXAMPLES)


def section(page):
    """What docs/examples.md says of a page."""
    found = re.search(rf"^## {page}\n(.*?)(?=^## |\Z)", DOC, re.M | re.S)
    assert found, f"docs/examples.md has no section {page}"
    return found[1]


def commands(page):
    """The commands of a page's section, as words; without those that have LEAF's own data made."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", section(page), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if " examples/" in line]


def made_and_run(page):
    """The arguments of make_data.py in a page's section, if it is there, and all that the page is run with."""
    words = commands(page)
    made = [line[2:] for line in words if line[:2] == ["python", "examples/make_data.py"]]
    ran = [line[5:] for line in words if line[:5] == ["mpirun", "-np", "2", "python", f"examples/{page}.py"]]
    assert len(made) <= 1
    assert ran, f"docs/examples.md does not run examples/{page}.py"
    return (made[0] if made else None), ran


# -- docs ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_docs_and_the_page_give_the_same_commands(page):
    made, ran = made_and_run(page)
    if made is not None:
        assert made[0] in SETS
    assert ran[0][0] == made[1] if made else (ROOT / ran[0][0]).is_dir()
    docstring = (EXAMPLES / f"{page}.py").read_text(encoding="utf-8").split('"""')[1]
    told = [shlex.split(line) for line in docstring.splitlines() if " examples/" in line]
    expected = [["python", "examples/make_data.py", *made]] if made else []
    assert told[: len(expected) + 1] == [*expected, ["mpirun", "-np", "2", "python", f"examples/{page}.py", *ran[0]]]


@pytest.mark.parametrize("page", PAGES)
def test_all_that_the_docs_run_a_page_with_are_its_settings(page):
    module = importlib.import_module(page)
    from simulator import Settings
    from simulator.settings import read_settings

    (kind,) = [each for each in vars(module).values() if isinstance(each, type) and Settings in each.__mro__[1:]]
    for words in made_and_run(page)[1]:
        assert read_settings(kind, words).rounds > 0


# -- runs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [page if page == QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)
def test_a_page_runs_as_the_docs_say(page, tmp_path):
    """Two rounds of two users."""
    made, ran = made_and_run(page)
    data = ROOT / ran[0][0]
    if made is not None:
        data = tmp_path / "data"
        importlib.import_module("make_data").make(made[0], data)
    # Of what the docs say, these alone are shorter here.
    options = re.sub(r"--(rounds|sample-num|eval-every|output) \S+ ?", "", shlex.join(ran[0][1:]))
    short = ["--rounds", "2", "--sample-num", "2", "--output", tmp_path / "out"]
    done = run(EXAMPLES / f"{page}.py", data, *shlex.split(options), *short, ranks=2)
    assert re.search(r"framework\.py:\d+ infer results: \d\.\d+$", done.stdout.strip())
    rows = metrics(tmp_path / "out")
    assert [row["phase"] for row in rows].count("train") == 2
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    before, after = params(tmp_path / "out", "initial"), params(tmp_path / "out")
    assert any((before[name] != after[name]).any() for name in before)


# -- the small data --------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name if name == QUICK else pytest.param(name, marks=SLOW) for name in SETS])
def test_the_same_seed_makes_the_same_bytes(name, tmp_path):
    make = importlib.import_module("make_data").make
    for out in ("one", "two"):
        make(name, tmp_path / out, seed=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_another_seed_makes_other_data(tmp_path):
    make = importlib.import_module("make_data").make
    for seed in (0, 1):
        make("sent140", tmp_path / str(seed), seed=seed)
    assert contents(tmp_path / "0").keys() == contents(tmp_path / "1").keys()
    assert contents(tmp_path / "0") != contents(tmp_path / "1")


def test_what_is_there_is_left_alone(tmp_path, capsys):
    main = importlib.import_module("make_data").main
    (tmp_path / "mine").touch()
    assert main(["synthetic", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is there already; name a folder that is new or empty\n"
    assert main(["nothing", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no set 'nothing'; there are ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_sets_are_listed_with_what_they_are(capsys):
    assert importlib.import_module("make_data").main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == SETS
    assert all(len(line.split()) > 5 for line in lines)


def test_synthetic_is_fedproxs():
    """30 users of 60 numbers, 50 examples and more each; the j-th number varies by j^-1.2 about the user's mean."""
    synthetic = importlib.import_module("small_data.synthetic").synthetic
    users = synthetic(0.0, 0.0, seed=0, users=200)
    assert {x.shape[1] for x, _ in users.values()} == {60}
    assert min(len(y) for _, y in users.values()) >= 50
    assert {int(label) for _, y in users.values() for label in y} == set(range(10))
    spread = np.sum([((x - x.mean(0)) ** 2).sum(0) for x, _ in users.values()], axis=0)
    spread /= sum(len(x) - 1 for x, _ in users.values())
    np.testing.assert_allclose(spread, np.arange(1, 61) ** -1.2, rtol=0.05)
    # Of N(0, alpha) and N(v, 1) about it: means of users' inputs vary by beta^2 + 1.
    for beta in (0.0, 2.0):
        means = np.array([x.mean(0) for x, _ in synthetic(0.0, beta, seed=1, users=400, most=60).values()])
        assert means.var() == pytest.approx(beta**2 + 1, rel=0.15)


# -- the models --------------------------------------------------------------------------

# Parameters by hand: convolutions k * k * in * out + out, LSTM layers 4 h (in + h) + 4 h and Paddle's second bias.
MODELS = {
    "synthetic": (lambda m: m.make(60, 5), (4, 60), "float32", 60 * 5 + 5),
    "femnist": (
        lambda m: m.make(), (2, 1, 28, 28), "float32",
        (25 * 32 + 32) + (25 * 32 * 64 + 64) + (3136 * 2048 + 2048) + (2048 * 62 + 62),
    ),
    "shakespeare": (
        lambda m: m.make(), (2, 80), "int32",
        80 * 8 + 1024 * (8 + 256) + 1024 * (256 + 256) + 4 * 1024 + 256 * 80 + 80,
    ),
    "sent140": (
        lambda m: m.lstm(50), (2, 25), "int32", 50 * 100 + 2 * (400 * 200 + 800) + (100 * 128 + 128) + 128 * 2 + 2,
    ),
    "celeba": (
        lambda m: m.make(), (2, 3, 84, 84), "uint8",
        (27 * 32 + 32) + 3 * (288 * 32 + 32) + 4 * 64 + (6 * 6 * 32 * 2 + 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_as_large_as_leafs_and_takes_what_the_reader_gives(name):
    import paddle

    make, shape, dtype, size = MODELS[name]
    model = make(importlib.import_module(f"{name}_model"))
    assert sum(int(p.size) for p in model.parameters() if not p.stop_gradient) == size
    batch = {"x": paddle.to_tensor(np.zeros(shape, dtype)), "y": paddle.to_tensor(np.zeros(shape[0], "int64"))}
    loss, found = model.loss(batch)
    assert np.isfinite(float(loss))
    assert found["loss"][1] == shape[0]


def test_the_sigmoid_of_synthetic_keeps_the_loss_high():
    """With logits of 1 for the right class and 0 for 4 others: log(1 + 4 / e)."""
    import paddle

    model = importlib.import_module("synthetic_model").make(1, 5)
    weight, bias = model.parameters()
    weight.set_value(np.array([[1000, -1000, -1000, -1000, -1000]], "float32"))
    bias.set_value(np.zeros(5, "float32"))
    loss, _ = model.loss({"x": paddle.ones([1, 1]), "y": paddle.to_tensor([0])})
    assert float(loss) == pytest.approx(np.log(1 + 4 / np.e), abs=1e-5)


def test_the_bag_of_words_is_a_linear_layer_on_counts():
    """Word 0 twice and word 2 once; 3 is for all others and adds nothing."""
    import paddle

    model = importlib.import_module("sent140_model").bag(4)
    rows, bias = model.layers[0].rows.weight.numpy(), model.layers[0].bias.numpy()
    found = model(paddle.to_tensor(np.array([[0, 2, 0, 3, 3], [3] * 5], "int32"))).numpy()
    np.testing.assert_allclose(found, [2 * rows[0] + rows[2] + bias, bias], rtol=1e-5)
    assert model(paddle.to_tensor([[3]])).numpy().tolist() == [bias.tolist()]


def test_the_scale_of_pixels_is_taken_out_by_the_first_batch_norm():
    """LEAF's pixels of 0 to 255 and TensorFlow's epsilon of 0.001 give the same logits and gradients."""
    import paddle

    paddle.seed(0)
    model = importlib.import_module("celeba_model").make()
    images = np.random.default_rng(1).integers(0, 256, (3, 3, 84, 84), np.uint8)
    batch = {"x": paddle.to_tensor(images), "y": paddle.to_tensor([0, 1, 1])}

    def look():
        loss, _ = model.loss(batch)
        loss.backward()
        found = [float(loss), *(p.grad.numpy() for p in model.parameters() if not p.stop_gradient)]
        model.clear_gradients()
        return found

    ours = look()
    model.layers[0].forward = lambda x: x.astype("float32")
    model.layers[2]._epsilon = 1e-3
    leafs = look()
    # Of the convolution's bias the gradient is 0 but for the rounding.
    for one, two in zip(ours, leafs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_faces_are_normed_by_their_batch_in_tests_too():
    """As in LEAF: two images do to each other what one alone does not."""
    import paddle

    model = importlib.import_module("celeba_model").make()
    model.eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 84, 84), np.uint8)
    images[1] //= 4
    with paddle.no_grad():
        both, alone = model(paddle.to_tensor(images)).numpy(), model(paddle.to_tensor(images[:1])).numpy()
    assert np.abs(both[0] - alone[0]).max() > 1e-3
    assert not model.examples_are_independent
