"""simulator/meaning.py: what a run is known by, on other ranks and when it is resumed."""

from dataclasses import dataclass

import pytest

from protos.errors import BadInput
from scheduler.rounds import Rules
from scheduler.samplers import AllTestSampler, FixedSampler, Sampler, UniformSampler
from scheduler.server_optimizers import FedAdam, FedAvg
from simulator.meaning import check_meaning, differing, meaning_of, with_files
from simulator.settings import Settings, read_settings


def settings(*arguments):
    return read_settings(Settings, ["data", *map(str, arguments)])


def meaning(*arguments, sampler=None, optimizer=None):
    rules = Rules(0, sampler or UniformSampler(), AllTestSampler(), optimizer or FedAvg(1.0))
    return meaning_of(settings(*arguments), rules)


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
        (meaning("--private", "out.*"), r"--private was \[\], is \['out.\*'\]"),
        (meaning(sampler=UniformSampler(3)), "the sampler .* was UniformSampler .*, is UniformSampler"),
        (meaning(sampler=FixedSampler((("a",),))), "the sampler .* is FixedSampler"),
        (meaning(optimizer=FedAvg(2.0)), "the server optimizer"),
        (meaning(optimizer=FedAdam()), "the server optimizer .* is FedAdam"),
    ],
)
def test_what_differs_is_named(changed, named):
    with pytest.raises(BadInput, match=named):
        check_meaning(meaning(), changed)
    assert differing(2, changed, meaning()).startswith("rank 2 has other settings than rank 0: ")
    check_meaning(changed, changed)
    assert differing(2, changed, changed) is None


def test_the_order_of_a_plan_counts_and_that_of_a_set_does_not():
    plans = [FixedSampler((("a", "b"),)), FixedSampler((("b", "a"),))]
    assert meaning(sampler=plans[0]) != meaning(sampler=plans[1])

    @dataclass
    class Chosen(Sampler):
        name = "chosen"
        text: str

        def sample(self, users, at):
            return ["a"]

        def __repr__(self):
            return self.text

    assert meaning(sampler=Chosen("{'a', 'b'}")) == meaning(sampler=Chosen("{'b', 'a'}"))
    assert meaning(sampler=Chosen("{'a', 'b'}")) != meaning(sampler=Chosen("{'b', 'c'}"))


def test_initial_parameters_count_by_what_they_are(tmp_path):
    file = tmp_path / "init.npz"
    told = [with_files(meaning(), settings("--init", file))]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        told.append(with_files(meaning(), settings("--init", file)))
    assert len({str(each) for each in told}) == 3
    assert with_files(meaning(), settings()) == meaning()
