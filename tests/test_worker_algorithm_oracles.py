"""trainer/algorithms equal the equations of their papers: NumPy loops over a net of two layers."""

import numpy as np
import pytest
from net_oracle import (
    BASE,
    BATCH,
    DAY,
    EPOCHS,
    HEAD,
    LR,
    NEXT,
    ROUNDS,
    SHAPES,
    WIDTH,
    NetTrainer,
    OperatorsTrainer,
    Oracle,
    by_examples,
    features,
    gradient,
    joined,
    loss_of,
)  # fmt: skip

from scheduler.rules.streams import stream
from trainer import algorithms


@pytest.fixture(params=[1e9, 0.25], ids=["free", "clipped"])
def oracle(request, tmp_path):
    return lambda algorithm, kind=NetTrainer: Oracle(tmp_path, algorithm, request.param, kind)


# -- one model for all ---------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_fedprox(oracle, mu):
    """With mu = 0 it is FedAvg."""
    o = oracle(algorithms.FedProx(mu=mu))
    w = o.first()
    for _, cohort in o.rounds():
        ends = [o.descend(w, x, y, lambda v, w=w: mu * (v - w)) for x, y in cohort.values()]
        w = w + by_examples(cohort, [end - w for end in ends])
    o.check(w)
    o.check_tests(dict.fromkeys("abcfg", w))


def test_fednova(oracle):
    o = oracle(algorithms.FedNova())
    w = o.first()
    for _, cohort in o.rounds():
        steps = [EPOCHS * int(np.ceil(len(y) / BATCH)) for _, y in cohort.values()]
        directions = [(o.descend(w, x, y) - w) / tau for (x, y), tau in zip(cohort.values(), steps, strict=True)]
        w = w + by_examples(cohort, steps) * by_examples(cohort, directions)
    o.check(w)


def test_fedsgd(oracle):
    o = oracle(algorithms.FedSGD())
    w = o.first()
    for _, cohort in o.rounds():
        w = w + by_examples(cohort, [-LR * o.cut(gradient(w, x, y)) for x, y in cohort.values()])
    o.check(w)


def test_feddyn(oracle):
    alpha = 0.3
    o = oracle(algorithms.FedDyn(alpha=alpha))
    w, h, linear = o.first(), 0.0, dict.fromkeys("abcde", np.zeros(53))
    for population, cohort in o.rounds():
        ends = {}
        for uid, (x, y) in cohort.items():
            ends[uid] = o.descend(w, x, y, lambda v, uid=uid, w=w: alpha * (v - w) - linear[uid])
            linear[uid] = linear[uid] - alpha * (ends[uid] - w)
        h = h - alpha / population * sum(end - w for end in ends.values())
        w = sum(ends.values()) / len(ends) - h / alpha
    o.check(w)
    o.check_kept(linear)


def test_qfedavg(oracle):
    q, big = 1.5, 1 / LR
    o = oracle(algorithms.QFedAvg(q=q))
    w = o.first()
    for _, cohort in o.rounds():
        above, below = 0.0, 0.0
        for x, y in cohort.values():
            f = loss_of(w, x, y) + 1e-10
            step = big * (w - o.descend(w, x, y))
            above = above + f**q * step
            below += q * f ** (q - 1) * (step**2).sum() + big * f**q
        w = w - above / below
    o.check(w)


@pytest.mark.parametrize("option", [1, 2])
def test_scaffold(oracle, option):
    o = oracle(algorithms.Scaffold(option=option))
    w, c, own = o.first(), np.zeros(53), dict.fromkeys("abcde", np.zeros(53))
    for population, cohort in o.rounds():
        dw, dc = [], []
        for uid, (x, y) in cohort.items():
            end = o.descend(w, x, y, lambda v, ci=own[uid], c=c: c - ci)
            steps = EPOCHS * int(np.ceil(len(y) / BATCH))
            new = gradient(w, x, y) if option == 1 else own[uid] - c + (w - end) / (steps * LR)
            dw.append(end - w)
            dc.append(new - own[uid])
            own[uid] = new
        w = w + sum(dw) / len(dw)
        c = c + len(cohort) / population * sum(dc) / len(dc)
    o.check(w)
    o.close(joined(o.run.params, "c/"), c)
    o.check_kept(own)


def contrast(z, near, far, temperature):
    """Gradient of the mean of -log softmax of the cosines over T, by z."""

    def cosine(other):
        sizes = np.linalg.norm(z, axis=1) * np.linalg.norm(other, axis=1)
        value = (z * other).sum(1) / sizes
        return value, other / sizes[:, None] - (value / (z**2).sum(1))[:, None] * z

    (a, da), (b, db) = cosine(near), cosine(far)
    p = np.exp(a / temperature) / (np.exp(a / temperature) + np.exp(b / temperature))
    return ((p - 1)[:, None] * da + (1 - p)[:, None] * db) / temperature / len(z)


@pytest.mark.parametrize("kind", [NetTrainer, OperatorsTrainer])
def test_moon(oracle, kind):
    mu, temperature = 2.0, 0.4
    o = oracle(algorithms.Moon(mu=mu, temperature=temperature), kind)
    w, last = o.first(), {}
    for _, cohort in o.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            old = last.get(uid, w)

            def term(z, xb, yb, old=old, w=w):
                return mu * contrast(z, features(w, xb), features(old, xb), temperature)

            last[uid] = o.descend(w, x, y, term=term)
            deltas.append(last[uid] - w)
        w = w + by_examples(cohort, deltas)
    o.check(w)
    o.check_kept(last)


# -- a part, or all, of each user's own -----------------------------------------------


def own_parts(o, mine, train, new):
    """Rounds of a model of which a part is private, and its tests.

    Args:
        mine: which part.
        train: (model, x, y) -> the model after a turn.
        new: the same of a user that has never trained, before its test.
    """
    shared = slice(0, 0) if mine == slice(None) else HEAD if mine == BASE else BASE
    w, own = o.start_of("a"), {}
    for _, cohort in o.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            begin = w.copy()
            begin[mine] = own[uid] if uid in own else o.start_of(uid)[mine]
            end = train(begin, x, y)
            own[uid] = end[mine]
            deltas.append((end - w)[shared])
        w[shared] += by_examples(cohort, deltas)
    names = set(SHAPES) - set(o.run.params)
    for uid, part in own.items():
        o.close(joined({**o.run.params, **o.run.kept(uid)})[mine], part)
        assert set(o.run.kept(uid)) == names
    o.close(joined({**o.run.params, **o.run.start_of("a")})[shared], w[shared])
    usual, personal = {}, {}
    for uid in o.tests:
        begin = w.copy()
        begin[mine] = own[uid] if uid in own else o.start_of(uid)[mine]
        usual[uid] = begin
        personal[uid] = begin if uid in own else new(begin, *o.data(NEXT, "train", uid))
    o.check_tests(usual)
    o.check_tests(personal, "personal_")


def test_local(oracle):
    o = oracle(algorithms.LocalOnly())
    assert not o.start
    own_parts(o, slice(None), o.descend, o.descend)


def test_fedper(oracle):
    o = oracle(algorithms.FedPer())
    own_parts(o, HEAD, o.descend, lambda w, x, y: o.descend(w, x, y, only=HEAD))


def test_fedrep(oracle):
    o = oracle(algorithms.FedRep(head_epochs=3))

    def train(w, x, y):
        return o.descend(o.descend(w, x, y, only=HEAD, epochs=3), x, y, only=BASE)

    own_parts(o, HEAD, train, lambda w, x, y: o.descend(w, x, y, only=HEAD, epochs=3))


def test_lgfedavg(oracle):
    o = oracle(algorithms.LGFedAvg())
    own_parts(o, BASE, o.descend, lambda w, x, y: o.descend(w, x, y, only=BASE))


# -- a model of each user's own beside the global one -----------------------------------


def test_finetune(oracle):
    o = oracle(algorithms.FineTune(epochs=3))
    w = o.first()
    for _, cohort in o.rounds():
        w = w + by_examples(cohort, [o.descend(w, x, y) - w for x, y in cohort.values()])
    o.check(w)
    o.check_tests(dict.fromkeys("abcfg", w))
    o.check_tests({uid: o.descend(w, *o.data(NEXT, "train", uid), epochs=3) for uid in o.tests}, "personal_")


def test_fedbabu(oracle):
    o = oracle(algorithms.FedBABU(epochs=3))
    w = o.first()
    for _, cohort in o.rounds():
        w = w + by_examples(cohort, [o.descend(w, x, y, only=BASE) - w for x, y in cohort.values()])
    o.check(w)
    o.close(w[HEAD], o.first()[HEAD])
    o.check_tests(dict.fromkeys("abcfg", w))
    o.check_tests({uid: o.descend(w, *o.data(NEXT, "train", uid), epochs=3) for uid in o.tests}, "personal_")


def test_ditto(oracle):
    lam = 0.6
    o = oracle(algorithms.Ditto(lam=lam))
    w, own = o.first(), {}
    for _, cohort in o.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            own[uid] = o.descend(own.get(uid, w), x, y, lambda v, w=w: lam * (v - w))
            deltas.append(o.descend(w, x, y) - w)
        w = w + by_examples(cohort, deltas)
    o.check(w)
    o.check_kept(own)
    o.check_tests(dict.fromkeys("abcfg", w))
    new = {uid: o.descend(w, *o.data(NEXT, "train", uid), lambda v: lam * (v - w)) for uid in "fg"}
    o.check_tests({uid: own.get(uid, new.get(uid)) for uid in o.tests}, "personal_")


@pytest.mark.parametrize("adaptive", [True, False])
def test_apfl(oracle, adaptive):
    o = oracle(algorithms.APFL(alpha=0.4, adaptive=adaptive))

    def turn(w, v, alpha, x, y):
        for number, (xb, yb) in enumerate(o.batches(x, y)):
            g = o.cut(gradient(alpha * v + (1 - alpha) * w, xb, yb))
            new = v - LR * alpha * g
            if not number and adaptive:
                alpha = float(np.clip(alpha - LR * ((v - w) @ g), 0, 1))
            v, w = new, w - LR * o.cut(gradient(w, xb, yb))
        return w, v, alpha

    w, own = o.first(), {}
    for _, cohort in o.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            v, alpha = own.get(uid, (w, 0.4))
            end, *own[uid] = turn(w, v, alpha, x, y)
            deltas.append(end - w)
        w = w + by_examples(cohort, deltas)
    o.check(w)
    o.check_kept({uid: v for uid, (v, _) in own.items()}, "state/v.")
    alphas = {uid: alpha for uid, (_, alpha) in own.items()}
    for uid, alpha in alphas.items():
        o.close(o.run.kept(uid)["state/alpha"], [alpha])
    assert (len(set(alphas.values())) > 3) == adaptive
    o.check_tests(dict.fromkeys("abcfg", w))
    for uid in "fg":
        _, *own[uid] = turn(w, w, 0.4, *o.data(NEXT, "train", uid))
    o.check_tests({uid: own[uid][1] * own[uid][0] + (1 - own[uid][1]) * w for uid in o.tests}, "personal_")


@pytest.mark.parametrize(("lam", "steps"), [(3.0, 4), (15.0, 2)])
def test_pfedme(oracle, lam, steps):
    """With lam = 15 the rates are at their bounds: theta's is 1/16, and w goes to theta."""
    o = oracle(algorithms.PFedMe(lam=lam, steps=steps))
    rate, pull = (LR, LR * lam) if lam == 3.0 else (1 / 16, 1.0)

    def turn(w, x, y):
        theta = w
        for xb, yb in o.batches(x, y):
            theta = w
            for _ in range(steps):
                theta = theta - rate * (o.cut(gradient(theta, xb, yb)) + lam * (theta - w))
            w = w - pull * (w - theta)
        return w, theta

    w, own = o.first(), {}
    for _, cohort in o.rounds():
        deltas = []
        for uid, (x, y) in cohort.items():
            end, own[uid] = turn(w, x, y)
            deltas.append(end - w)
        w = w + by_examples(cohort, deltas)
    o.check(w)
    o.check_kept(own)
    o.check_tests(dict.fromkeys("abcfg", w))
    for uid in "fg":
        own[uid] = turn(w, *o.data(NEXT, "train", uid))[1]
    o.check_tests({uid: own[uid] for uid in o.tests}, "personal_")


@pytest.mark.parametrize("hessian", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.35])
def test_perfedavg(oracle, hessian, alpha):
    delta, each = 0.01, 3 if hessian else 2
    o = oracle(algorithms.PerFedAvg(alpha=alpha, hessian=hessian, delta=delta, epochs=2))
    ahead = alpha or LR

    def turn(w, x, y):
        size = max(1, min(BATCH, int(np.ceil(len(y) / each))))
        batches = list(o.batches(x, y, size=size))
        for k in range(0, len(batches) - each + 1, each):
            one, two, *three = batches[k : k + each]
            v = gradient(w - ahead * o.cut(gradient(w, *one)), *two)
            if three:
                (last,) = three
                second = (gradient(w + delta * v, *last) - gradient(w - delta * v, *last)) / (2 * delta)
                v = v - ahead * second
            w = w - LR * o.cut(v)
        return w

    w = o.first()
    for _, cohort in o.rounds():
        w = w + by_examples(cohort, [turn(w, x, y) - w for x, y in cohort.values()])
    o.check(w)
    o.check_tests(dict.fromkeys("abcfg", w))
    own = dict.fromkeys(o.tests, w)
    for uid in own:
        for xb, yb in o.batches(*o.data(NEXT, "train", uid), epochs=2):
            own[uid] = own[uid] - ahead * o.cut(gradient(own[uid], xb, yb))
    o.check_tests(own, "personal_")


@pytest.mark.parametrize("start_epochs", [1, 10])
def test_fedala(oracle, start_epochs):
    """In the second round with a user W is learned for at most so many epochs, afterwards for one."""
    eta, share = 1.5, 0.6
    o = oracle(algorithms.FedALA(eta=eta, share=share, start_epochs=start_epochs))
    sent, weight, learned, epochs = {}, {}, set(), []

    def mixed(uid, w, x, y, where):
        """The mixture, and its weights."""
        old, mine = sent[uid], weight[uid]
        rows = np.sort(stream(0, "algorithm", *where, uid).permutation(len(y))[: max(1, round(share * len(y)))])
        x, y, before = x[rows], y[rows], None

        def mixture():
            v = w.copy()
            v[HEAD] = old + (w[HEAD] - old) * mine
            return v

        made = 0
        while made < (1 if uid in learned else start_epochs):
            made += 1
            losses = []
            for xb, yb in o.batches(x, y, epochs=1):
                v = mixture()
                losses.append(loss_of(v, xb, yb) * len(yb))
                mine = np.clip(mine - eta * gradient(v, xb, yb)[HEAD] * (w[HEAD] - old), 0, 1)
            now = sum(losses) / max(1, len(y))
            if before is not None and abs(before - now) < 0.01:
                break
            before = now
        epochs.append(made)
        return mixture(), mine

    w, number = o.first(), {DAY: 0, NEXT: 0}
    for (_, cohort), (day, _) in zip(o.rounds(), ROUNDS, strict=True):
        number[day] += 1
        deltas = []
        for uid, (x, y) in cohort.items():
            begin = w
            if uid in sent:
                begin, weight[uid] = mixed(uid, w, x, y, ("train", day, number[day]))
                learned.add(uid)
            else:
                weight[uid] = np.ones(18)
            end = o.descend(begin, x, y)
            sent[uid] = end[HEAD]
            deltas.append(end - w)
        w = w + by_examples(cohort, deltas)
    assert start_epochs == 1 or max(epochs) > 1
    o.check(w)
    names = [name for name in SHAPES if name.startswith("layers.2")]
    for uid, head in sent.items():
        kept = o.run.kept(uid)
        o.close(np.concatenate([kept[f"state/sent.{name}"].ravel() for name in names]), head)
        o.close(np.concatenate([kept[f"state/w.{name}"].ravel() for name in names]), weight[uid])
    assert min(each.min() for each in weight.values()) < 0.95
    o.check_tests(dict.fromkeys("abcfg", w))
    own = dict.fromkeys(o.tests, w)
    for uid in sent.keys() & own.keys():
        own[uid] = mixed(uid, w, *o.data(NEXT, "train", uid), ("test", NEXT, number[NEXT]))[0]
    o.check_tests(own, "personal_")


@pytest.mark.parametrize("kind", [NetTrainer, OperatorsTrainer])
def test_fedproto(oracle, kind):
    lam = 0.8
    o = oracle(algorithms.FedProto(lam=lam), kind)
    prototypes, own = {}, {}

    def train(w, x, y):
        def term(z, xb, yb):
            there = np.array([label in prototypes for label in yb])
            near = np.array([prototypes.get(label, np.zeros(WIDTH)) for label in yb])
            return 2 * lam * (z - near) * there[:, None] / (len(yb) * WIDTH)

        return o.descend(w, x, y, term=term)

    for _, cohort in o.rounds():
        for uid, (x, y) in cohort.items():
            own[uid] = train(own.get(uid, o.start_of(uid, {})), x, y)
        zs = np.concatenate([features(own[uid], x) for uid, (x, _) in cohort.items()])
        ys = np.concatenate([y for _, y in cohort.values()])
        prototypes |= {label: zs[ys == label].mean(0) for label in set(ys)}
    for label, place in prototypes.items():
        o.close(o.run.params[f"prototypes/{label}"], place)
    o.check_kept(own, "")
    new = {uid: o.start_of(uid, {}) for uid in "fg"}
    o.check_tests({uid: own.get(uid, new.get(uid)) for uid in o.tests})
    for uid in o.tests:
        w = own[uid] if uid in own else train(new[uid], *o.data(NEXT, "train", uid))
        x, y = o.data(NEXT, "test", uid)
        z, labels = features(w, x), sorted(prototypes)
        nearest = np.array(labels)[np.argmin([((z - prototypes[label]) ** 2).sum(1) for label in labels], axis=0)]
        assert o.tests[uid]["personal_top1"] == pytest.approx((nearest == y).mean()), uid
