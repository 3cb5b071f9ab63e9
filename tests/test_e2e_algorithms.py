"""trainer/algorithms and trainer/filters equal the equations of their papers, as NumPy loops on softmax regression."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, TINY, metrics, params, private, run, same
from tiny_task import make_data

pytestmark = pytest.mark.usefixtures("forks")

LINEAR = ROOT / "tests" / "linear_task.py"
ROUNDS, EPOCHS, BATCH, LR, USERS, COHORT = 12, 2, 4, 0.3, 12, 5
FLAGS = ["--rounds", ROUNDS, "--sample-num", COHORT, "--epochs", EPOCHS, "--batch-size", BATCH, "--lr", LR,
         "--max-grad-norm", 1e9, "--server-lr", 1, "--seed", 5, "--shards", 2]  # fmt: skip
DAY, NEXT = "20200101", "20200102"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), users=USERS, seed=4)


def users_of(data, day, split):
    """uid -> (x with a column of ones, y) of a day."""
    found = {}
    for path in sorted((Path(data) / day).glob(f"{split}*")):
        for uid, user in json.loads(path.read_text()).items():
            x = np.array(user["x"], "float32").astype("float64")
            found.setdefault(uid, []).append((np.c_[x, np.ones(len(x))], np.array(user["y"])))
    return {uid: tuple(np.concatenate(each) for each in zip(*parts, strict=True)) for uid, parts in found.items()}


def gradient(w, x, y):
    """Of the mean cross entropy, w (features + 1, classes)."""
    z = x @ w
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return x.T @ p / len(y)


def descend(w, x, y, extra=lambda w: 0.0, epochs=EPOCHS):
    """Local SGD; returns the parameters and the number of steps."""
    steps = 0
    for _ in range(epochs):
        for i in range(0, len(y), BATCH):
            w = w - LR * (gradient(w, x[i : i + BATCH], y[i : i + BATCH]) + extra(w))
            steps += 1
    return w, steps


def joined(arrays, prefix=""):
    """Weight and bias as one array."""
    return np.r_[arrays[f"{prefix}layers.0.weight"], arrays[f"{prefix}layers.0.bias"][None]].astype("float64")


def top1(w, x, y):
    return float(((x @ w).argmax(1) == y).mean())


class Loop:
    """The rounds of a run, and the users of its day."""

    def __init__(self, data, output):
        self.cohorts = json.loads((output / "cohorts.json").read_text())
        assert len(self.cohorts) == ROUNDS
        self.users = users_of(data, DAY, "train")
        self.output = output
        self.w = joined(params(output, "initial"))

    def rounds(self):
        for cohort in self.cohorts:
            assert len(cohort) == COHORT
            yield {uid: self.users[uid] for uid in cohort}

    def check(self, w):
        np.testing.assert_allclose(joined(params(self.output)), w, atol=2e-5, rtol=0)


def mean(deltas, weights):
    return sum(n * d for n, d in zip(weights, deltas, strict=True)) / sum(weights)


def play(data, output, *flags, ranks=1):
    run(LINEAR, data, *FLAGS, *flags, "--output", output, ranks=ranks)
    return Loop(data, output)


def test_fedavg(data, tmp_path):
    loop = play(data, tmp_path)
    w = loop.w
    for cohort in loop.rounds():
        w = w + mean([descend(w, x, y)[0] - w for x, y in cohort.values()], [len(y) for _, y in cohort.values()])
    loop.check(w)


def test_scaffold_option_2(data, tmp_path):
    loop = play(data, tmp_path, "--algorithm", "scaffold", ranks=2)
    w, c, own = loop.w, np.zeros_like(loop.w), {uid: np.zeros_like(loop.w) for uid in loop.users}
    for cohort in loop.rounds():
        dw, dc = [], []
        for uid, (x, y) in cohort.items():
            end, steps = descend(w, x, y, lambda v, ci=own[uid], c=c: c - ci)
            new = own[uid] - c + (w - end) / (steps * LR)
            dw.append(end - w)
            dc.append(new - own[uid])
            own[uid] = new
        w = w + sum(dw) / len(dw)
        c = c + sum(dc) / len(loop.users)
    loop.check(w)
    np.testing.assert_allclose(joined(params(tmp_path, "final.c")), c, atol=2e-5)
    kept = private(tmp_path)
    assert set(kept) == {uid for cohort in loop.cohorts for uid in cohort}
    for uid, arrays in kept.items():
        np.testing.assert_allclose(joined(arrays, "state/"), own[uid], atol=5e-5)


def test_feddyn(data, tmp_path):
    loop, alpha = play(data, tmp_path, "--algorithm", "feddyn(alpha=0.2)", ranks=2), 0.2
    w, h, linear = loop.w, np.zeros_like(loop.w), {uid: np.zeros_like(loop.w) for uid in loop.users}
    for cohort in loop.rounds():
        ends = []
        for uid, (x, y) in cohort.items():
            end = descend(w, x, y, lambda v, g=linear[uid], w=w: alpha * (v - w) - g)[0]
            linear[uid] = linear[uid] - alpha * (end - w)
            ends.append(end)
        h = h - alpha / len(loop.users) * sum(end - w for end in ends)
        w = sum(ends) / len(ends) - h / alpha
    loop.check(w)
    for uid, arrays in private(tmp_path).items():
        np.testing.assert_allclose(joined(arrays, "state/"), linear[uid], atol=2e-5)


@pytest.mark.slow
def test_ditto(data, tmp_path):
    loop, lam = play(data, tmp_path, "--algorithm", "ditto(lam=0.5)"), 0.5
    w, own = loop.w, {}
    for cohort in loop.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            own[uid] = descend(own.get(uid, w), x, y, lambda v, w=w: lam * (v - w))[0]
            deltas.append(descend(w, x, y)[0] - w)
        w = w + mean(deltas, [len(y) for _, y in cohort.values()])
    loop.check(w)
    for uid, arrays in private(tmp_path).items():
        np.testing.assert_allclose(joined(arrays, "state/"), own[uid], atol=2e-5)
    tests = users_of(data, NEXT, "test")
    mine = {}
    for uid, (x, y) in tests.items():
        v = own.get(uid)
        if v is None:
            v = descend(w, *loop.users[uid], lambda v, w=w: lam * (v - w))[0]
        mine[uid] = top1(v, x, y) * len(y), top1(w, x, y) * len(y), len(y)
    hits, shared_hits, counts = (sum(each) for each in zip(*mine.values(), strict=True))
    row = metrics(tmp_path)[-1]
    assert float(row["personal_top1"]) == pytest.approx(hits / counts, abs=1e-6)
    assert float(row["top1"]) == pytest.approx(shared_hits / counts, abs=1e-6)


@pytest.mark.slow
def test_clipping(data, tmp_path):
    loop, bound = play(data, tmp_path, "--filter", "clip(norm=0.4)"), 0.4
    w, clipped = loop.w, 0
    for cohort in loop.rounds():
        deltas = [descend(w, x, y)[0] - w for x, y in cohort.values()]
        norms = [np.sqrt((d**2).sum()) for d in deltas]
        clipped += sum(norm > bound for norm in norms)
        deltas = [d * min(1, bound / norm) for d, norm in zip(deltas, norms, strict=True)]
        w = w + mean(deltas, [len(y) for _, y in cohort.values()])
    assert 0 < clipped < ROUNDS * COHORT
    loop.check(w)


@pytest.mark.slow
def test_noise_on_the_sum_of_clipped_updates(data, tmp_path):
    """Without noise users count equally; with it, what is added has the deviation that it must have."""
    loop, bound = play(data, tmp_path / "quiet", "--filter", "dp(norm=0.4, noise=0.0)"), 0.4
    w = loop.w
    for cohort in loop.rounds():
        deltas = [descend(w, x, y)[0] - w for x, y in cohort.values()]
        w = w + sum(d * min(1, bound / np.sqrt((d**2).sum())) for d in deltas) / COHORT
    loop.check(w)
    flags = ["--rounds", 1, "--filter", "dp(norm=0.4, noise=2.0)"]
    drawn = []
    for seed in range(4):
        output = tmp_path / f"loud{seed}"
        run(LINEAR, data, *FLAGS, *flags, "--seed", seed, "--shards", 1, "--test-sampler", "none", "--output", output)
        users, w = users_of(data, DAY, "train"), joined(params(output, "initial"))
        (cohort,) = json.loads((output / "cohorts.json").read_text())
        deltas = [descend(w, *users[uid])[0] - w for uid in cohort]
        quiet = w + sum(d * min(1, bound / np.sqrt((d**2).sum())) for d in deltas) / COHORT
        drawn.append(joined(params(output)) - quiet)
    noise = np.array(drawn)
    # 84 draws: the deviation is within a quarter of 2.0 * 0.4 / 5 = 0.16.
    assert noise.std() == pytest.approx(0.16, rel=0.25)
    assert abs(noise.mean()) < 0.06
    assert len({each.tobytes() for each in noise}) == 4


MAIN = """
import linear_task, tiny_task

if __name__ == "__main__":
    tiny_task.TinyTrainer = linear_task.LinearTrainer
    tiny_task.main()
"""


@pytest.mark.slow
def test_what_the_docs_show_runs(data, tmp_path):
    """The algorithm there is FedProx; the filter sends signs, of which the mean is a multiple of a fifth."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "algorithms.md").read_text(), re.S)
    assert len(blocks) == 4
    page = tmp_path / "page.py"
    page.write_text("\n\n".join([*blocks, MAIN]))
    run(page, data, *FLAGS, "--algorithm", "nearby(mu=0.7)", "--output", tmp_path / "mine")
    run(LINEAR, data, *FLAGS, "--algorithm", "fedprox(0.7)", "--output", tmp_path / "ours")
    assert same(params(tmp_path / "mine"), params(tmp_path / "ours"))
    run(page, data, *FLAGS, "--algorithm", "drift", "--output", tmp_path / "drift")
    run(LINEAR, data, *FLAGS, "--algorithm", "scaffold", "--output", tmp_path / "scaffold")
    for name in ("final", "final.c"):
        assert same(params(tmp_path / "drift", name), params(tmp_path / "scaffold", name))
    flags = ["--rounds", 1, "--filter", "sign(step=0.5)", "--test-sampler", "none"]
    run(page, data, *FLAGS, *flags, "--output", tmp_path / "signs")
    moved = joined(params(tmp_path / "signs")) - joined(params(tmp_path / "signs", "initial"))
    assert 0.05 < np.abs(moved).mean() < 0.5
    assert np.abs(moved).max() < 0.5 * (1 + 5 * 0.1)


LOUD = """
import sys
import linear_task, tiny_task
import numpy as np
from scheduler import Algorithm, Group, register_algorithm
from scheduler.rules.server_optimizers import FedAvg
from protos.codec import TensorSpec


@register_algorithm("wrong")
class Wrong(Algorithm):
    def __init__(self, how: str) -> None:
        self.how = how

    def groups(self, shapes):
        start = {"layers.0.bias": np.zeros(2, "float32") if self.how == "start" else np.full(3, 7, "float32")}
        name = "no/name" if self.how == "group" else "c"
        return {name: Group(shapes.trained, FedAvg(1.0), start=start)}

    def user_state(self, shapes):
        return {"kept": TensorSpec("float32", (2,))}

    def private(self, names):
        return ["nothing.*"] if self.how == "private" else []

    def train(self, local):
        metrics = local.train(only=["nowhere"] if self.how == "only" else None)
        if self.how == "send":
            local.send("c", {"layers.0.bias": local.params["layers.0.weight"]})
        if self.how == "nan":
            local.send("c", {"layers.0.bias": local.params["layers.0.bias"] * float("nan")})
        if self.how == "state":
            local.state["kept"] = local.state["kept"][:1]
        if self.how == "another":
            local.state["other"] = local.state["kept"]
        if self.how == "infinite":
            local.state["kept"] += float("inf")
        if self.how == "scalar":
            local.scalar("s", float("nan"))
        if self.how == "nothing":
            local.train(only=[])
        if self.how == "load":
            local.load({"layers.0.bias": local.params["layers.0.bias"][:1]})
        if self.how == "assign":
            local.train(correct=lambda: local.gradients().update({"layers.0.bias": 1}))
        if self.how == "write":
            local.shared["layers.0.bias"][0] = 1
        return None if self.how == "metrics" else metrics


class OwnLoop(linear_task.LinearTrainer):
    def train_user(self, model, examples, user):
        return {}


if __name__ == "__main__":
    tiny_task.TinyTrainer = OwnLoop if "own-loop" in sys.argv[-1] else linear_task.LinearTrainer
    if "own-loop" in sys.argv[-1]:
        del sys.argv[-1]
    tiny_task.main()
"""
WRONG = {
    "nothing": "train(only=[]) trains nothing; the model may have no such parameters",
    "load": "load got 'layers.0.bias' [1], the model has float32[3]",
    "assign": "'Gradients' object has no attribute 'update'",
    "start": "group 'c': its start 'layers.0.bias' is float32[2], it has float32[3]",
    "group": "a group cannot be called 'no/name'",
    "private": "private pattern 'nothing.*' matches no parameter",
    "only": "'nowhere' is no parameter that trains; there are: layers.0.bias, layers.0.weight",
    "send": "the algorithm sends 'layers.0.bias' [6, 3] of group 'c', which has",
    "nan": "NaN or infinity in the delta of parameter 'c/layers.0.bias'",
    "state": "array 'kept' of its state is float32[1], `user_state` declares float32[2]",
    "another": "array 'other' of its state is float32[2], `user_state` declares nothing of that name",
    "infinite": "NaN or infinity in its state 'kept'",
    "scalar": "scalar 's' is (nan, 1.0): its training diverged",
    "write": "assignment destination is read-only",
    "metrics": "Wrong must return metrics as name -> (sum, count), not None",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", list(WRONG))
def test_a_mistake_in_an_algorithm_is_named(data, tmp_path, how):
    page = tmp_path / "page.py"
    page.write_text(LOUD)
    done = run(page, data, *FLAGS, "--algorithm", f"wrong({how!r})", "--output", tmp_path / "out", check=False)
    assert done.returncode == 1
    assert WRONG[how] in done.stderr, done.stderr
    assert "uid 'user" in done.stderr or how in ("group", "private", "start")


def test_a_group_begins_with_its_start(data, tmp_path):
    """Nothing is sent, so FedAvg leaves it as it is."""
    page = tmp_path / "page.py"
    page.write_text(LOUD)
    run(page, data, *FLAGS, "--rounds", 2, "--algorithm", "wrong('not')", "--output", tmp_path / "out", ranks=2)
    assert params(tmp_path / "out", "final.c")["layers.0.bias"].tolist() == [7, 7, 7]
    assert not params(tmp_path / "out", "final.c")["layers.0.weight"].any()


@pytest.mark.parametrize("algorithm", ["fedprox", pytest.param("fednova", marks=pytest.mark.slow)])
def test_a_loop_that_never_says_before_step_is_refused(data, tmp_path, algorithm):
    page = tmp_path / "page.py"
    page.write_text(LOUD)
    flags = ["--algorithm", algorithm, "--output", tmp_path / "out", "own-loop"]
    done = run(page, data, *FLAGS, *flags, check=False)
    assert done.returncode == 1
    assert "OwnLoop.train_user never calls user.before_step()" in done.stderr


@pytest.mark.parametrize(("algorithm", "sent"), [("scaffold", "group 'c'"), ("fednova", "scalar 'tau'")])
def test_privacy_is_not_promised_for_what_does_not_pass_the_filter(data, tmp_path, algorithm, sent):
    flags = ["--algorithm", algorithm, "--filter", "dp(0.4)", "--output", tmp_path / "out"]
    done = run(LINEAR, data, *FLAGS, *flags, check=False)
    assert done.returncode == 1
    assert f"sends {sent}, which UserDP does not guard; use an algorithm that sends the model alone" in done.stderr


@pytest.mark.slow
def test_without_its_buffers_a_model_with_batch_norm_gets_noise(data, tmp_path):
    flags = ["--filter", "dp(0.4)", "--rounds", 2, "--output", tmp_path / "out"]
    done = run(TINY, data, *FLAGS, *flags, check=False)
    assert done.returncode == 1
    assert (
        "dp: noise on buffers makes no sense; let users keep them: --private norm._mean,norm._variance" in done.stderr
    )
    run(TINY, data, *FLAGS, *flags, "--private", "norm._mean,norm._variance")


EXTRA = """
import numpy as np
import linear_task, tiny_task
from scheduler import Algorithm, register_algorithm


@register_algorithm("telling")
class Telling(Algorithm):
    def train(self, local):
        metrics = local.train()
        metrics["drift"] = np.float32(local.update.norm()), 1
        return metrics


if __name__ == "__main__":
    tiny_task.TinyTrainer = linear_task.LinearTrainer
    tiny_task.main()
"""


def test_an_algorithm_may_add_to_the_metrics_of_training(data, tmp_path):
    page = tmp_path / "page.py"
    page.write_text(EXTRA)
    run(page, data, *FLAGS, "--rounds", 2, "--algorithm", "telling", "--output", tmp_path / "out")
    assert all(float(row["drift"]) > 0 for row in metrics(tmp_path / "out")[:2])
