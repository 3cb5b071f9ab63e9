"""simulator/checkpoints/meaning.py: what a run is known by, on other ranks and when it is resumed."""

import json
from pathlib import Path

import pytest

from protos.errors import BadInput
from scheduler.rules.samplers import AllTestSampler, FixedSampler, UniformSampler
from scheduler.rules.server_optimizers import FedAdam, FedAvg
from scheduler.state.rounds import Rules
from simulator.checkpoints.meaning import check_meaning, differing, meaning_of, with_files
from simulator.settings import Settings, read_settings
from trainer import TrainerBase


def settings(*arguments):
    return read_settings(Settings, ["data", *map(str, arguments)])


class Piece:
    """A reader or a trainer."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def meaning(*arguments, sampler=None, optimizer=None, reader=None, trainer=None, given=None):
    rules = Rules(0, sampler or UniformSampler(), AllTestSampler(), optimizer or FedAvg(1.0))
    return meaning_of(given or settings(*arguments), reader or Piece(), trainer or Piece(), rules)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shards", 3], ["--no-tune"], ["--no-shared-memory"], ["--progress", "none"], ["--output", "x"],
        ["--resume", "x"], ["--checkpoint-every", 4], ["--interface", "eth0"], ["--plan", "p"], ["--init", "i"],
    ],
)  # fmt: skip
def test_what_changes_no_bit_is_no_part_of_it(arguments):
    assert meaning(*arguments) == meaning()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (meaning("--lr", 0.5), "--lr was 1.0, is 0.5"),
        (meaning("--hold-out-users", 0.2), "--hold-out-users was 0.0, is 0.2"),
        (meaning("--private", "out.*"), r"--private was \[\], is \['out.\*'\]"),
        (meaning(sampler=UniformSampler(3)), "settings: sampler UniformSampler: sample_num was 10, is 3$"),
        (meaning(sampler=FixedSampler((("a",),))), "settings: the sampler was UniformSampler, is FixedSampler$"),
        (meaning(optimizer=FedAvg(2.0)), "settings: server optimizer FedAvg: learning_rate was 1.0, is 2.0$"),
        (meaning(optimizer=FedAdam()), "settings: the server optimizer was FedAvg, is FedAdam$"),
        (meaning(trainer=Piece(mu=0.5)), "settings: trainer Piece: mu was not given, is 0.5$"),
        (meaning(reader=Piece(of=Piece(size=3))), "; reader Piece: of.size was not given, is 3"),
    ],
)
def test_what_differs_is_named(changed, named):
    with pytest.raises(BadInput, match=named):
        check_meaning(meaning(), changed, 5)
    assert differing(2, changed, meaning()).startswith("rank 2 has other settings than rank 0: ")
    check_meaning(changed, changed, 5)
    assert differing(2, changed, changed) is None


# -- more rounds -------------------------------------------------------------------


def of(rounds, **more):
    return meaning("--rounds", rounds, **more)


@pytest.mark.parametrize(("step", "rounds"), [(1, 1), (5, 5), (5, 11), (10, 10), (10, 11), (10, 10_000)])
def test_the_first_day_may_have_more_rounds_or_fewer_that_are_not_done_yet(step, rounds):
    check_meaning(of(10), of(rounds), step)


def test_all_ranks_have_the_same_rounds():
    assert "--rounds is 11 here and 10 there" in differing(2, of(11), of(10))


@pytest.mark.parametrize(
    ("step", "rounds", "said"),
    [
        (6, 5, "--rounds 5: 6 rounds are done; give 6 or more"),
        (11, 12, "--rounds was 10, is 12: 11 rounds are done, so the first day is over"),
        (20, 5, "--rounds was 10, is 5: 20 rounds are done, so the first day is over"),
    ],
)
def test_rounds_that_are_done_are_not_taken_back(step, rounds, said):
    with pytest.raises(BadInput, match=f"--resume: {said}"):
        check_meaning(of(10), of(rounds), step)


def test_a_piece_that_reads_the_rounds_holds_the_run_to_them():
    class Takes(Piece):
        takes = ("rounds",)

    both = [settings("--rounds", rounds) for rounds in (3, 4)]
    for piece in (lambda given: Takes(), lambda given: Piece(settings=given)):
        before, now = (meaning(given=given, trainer=piece(given)) for given in both)
        with pytest.raises(BadInput, match="--rounds, which the trainer reads, was 3, is 4"):
            check_meaning(before, now, 1)


def test_the_order_of_a_plan_counts_and_its_place_does_not():
    plans = [FixedSampler((("a", "b"),)), FixedSampler((("b", "a"),))]
    assert meaning(sampler=plans[0]) != meaning(sampler=plans[1])
    assert meaning(sampler=plans[0]) == meaning(sampler=FixedSampler((("a", "b"),), "elsewhere.json"))


def test_what_a_piece_takes_from_the_settings_is_told_once():
    class Trainer(TrainerBase):
        takes = ("lr",)

        def make_model(self):
            raise NotImplementedError

    before, now = (
        meaning("--lr", lr, trainer=Trainer(shuffle=True).with_settings(settings("--lr", lr))) for lr in (0.5, 0.25)
    )
    with pytest.raises(BadInput, match=r"with other settings: --lr was 0.5, is 0.25$"):
        check_meaning(before, now, 5)
    # By hand or not makes no difference.
    assert before == meaning("--lr", 0.5, trainer=Trainer(lr=0.5, shuffle=True))
    with pytest.raises(BadInput, match=r"settings: trainer \S*Trainer: shuffle was True, is False$"):
        check_meaning(before, meaning("--lr", 0.5, trainer=Trainer()), 5)


def test_settings_of_any_kind_are_told_the_same_in_every_process():
    class Tagged(Settings):
        tags: frozenset[str] = frozenset()
        levels: dict[str, float] = {}
        where: Path = Path("here")

    def of(**values):
        return meaning(given=Tagged(data="d", **values))

    told = of(tags={"b", "a", "c"}, levels={"y": 1, "x": 2})
    assert told == of(tags={"c", "b", "a"}, levels={"x": 2, "y": 1})
    assert json.loads(json.dumps(told)) == told
    for changed in (of(tags={"a"}), of(levels={"x": 3}), of(where="there")):
        assert changed != of()


def test_a_piece_that_holds_the_settings_does_not_say_them_again():
    assert meaning("--shards", 2, trainer=Piece(s=settings("--shards", 2))) == meaning(trainer=Piece(s=settings()))


def test_initial_parameters_count_by_what_they_are(tmp_path):
    file = tmp_path / "init.npz"
    told = [with_files(meaning(), settings("--init", file))]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        told.append(with_files(meaning(), settings("--init", file)))
    assert len({str(each) for each in told}) == 3
    assert with_files(meaning(), settings()) == meaning()
