"""What the README and docs say is so: their code runs, their links lead somewhere, their settings and errors exist."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from running import ROOT, TIMEOUT, command, metrics, params, private, same

from application import RecipeSettings
from scheduler.rules.registries import REGISTRIES
from simulator import Settings

PAGES = [ROOT / name for name in ("README.md", "README_cn.md", "CHANGELOG.md", "lm_data/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORD, ERRORS = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("record.md", "errors.md"))
CHANCE = 0.25  # of the README's task, with four classes
# Programs that a reader runs but that this project does not make: their options, by name.
FOREIGN_OPTIONS = {
    "mpirun": {"--hostfile", "--bind-to", "--oversubscribe", "--allow-run-as-root"},
    "preprocess.sh": {"--sf", "--tf"},
    "srun": {
        "--mpi",
        "--nodes",
        "--ntasks",
        "--distribution",
        "--exclusive",
        "--cpu-bind",
        "--overcommit",
        "--signal",
        "--requeue",
    },
}
# Of LEAF's own folder.
FOREIGN_FILES = {"models/baseline_constants.py", "baseline_constants.py", "embs.json"}
FOREIGN_FOLDERS = {"models/", "paper_experiments/", "all_data/", "raw/"}
# Lines of the error table that come from Python, argparse, mpi4py or gRPC.
FOREIGN_LINES = {
    "the following arguments are required: DATA",
    "ModuleNotFoundError: No module named 'reader'",
    "ImportError: cannot import name 'TrainerBase' from partially initialized module 'trainer'",
    "RuntimeError: cannot load MPI library",
    "Handshake failed with error SSL_ERROR_SSL",
}


def fences(text):
    """(language, content) of each fenced block, those in lists too."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.M | re.S)
    return [(kind, re.sub(f"^{indent}", "", body, flags=re.M)) for indent, kind, body in found]


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.M | re.S)


def spans(text):
    """Contents of code spans."""
    return [content.strip() for _, content in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", prose(text))]


def programs():
    """File name -> content of the Python blocks that name themselves."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = [body for kind, body in fences(text) if kind == "python"]
    return {re.match(r"# (\w+\.py)\n", body)[1]: body for body in blocks}


# -- install -----------------------------------------------------------------------


def test_the_install_lines_are_the_first_commands():
    commands = [body for kind, body in fences(README) if "python" in body or "pip" in body]
    assert commands[0].splitlines() == [
        'pip install -e ".[mpi]" && mpirun -np 2 python application.py lm_data',
        'pip install -e ".[mpi,test]" && pytest',
    ]


def test_the_new_task_is_short():
    files = programs()
    assert sum(len(files[name].splitlines()) for name in ("my_model.py", "my_task.py", "make_data.py")) < 80


# -- the code blocks, run as a reader would -----------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside the checkout with the README's files and the data they make."""
    folder = tmp_path_factory.mktemp("reader")
    for name, content in programs().items():
        (folder / name).write_text(content, encoding="utf-8")
    done = subprocess.run([sys.executable, "make_data.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run_in(folder, *arguments, ranks=1, path=str(ROOT)):
    return subprocess.run(
        command(*arguments, ranks=ranks),
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        timeout=TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def top1(folder, *arguments, ranks=1):
    """Runs to the end; returns the figure of its last line."""
    done = run_in(folder, *arguments, ranks=ranks)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    last = re.search(r" framework\.py:\d+ infer results: (\d\.\d{6})$", done.stdout.strip().splitlines()[-1])
    assert last, done.stdout
    return float(last[1])


@pytest.fixture(scope="module")
def alone(folder):
    return top1(folder, "my_task.py", "data", "--output", "alone"), folder / "alone"


def claimed(text):
    """The figures that the README gives for the new task and for its private bias."""
    start = text.index("Both runs end with the same line")
    return [float(figure) for figure in re.findall(r"infer results: (\d\.\d{6})", text[start:])[:2]]


def test_the_new_task_learns_what_the_readme_says(alone):
    figure, output = alone
    assert figure > 2 * CHANCE
    assert figure == pytest.approx(claimed(README)[0], abs=0.02)
    losses = [float(row["loss"]) for row in metrics(output) if row["phase"] == "train"]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_new_task_gives_the_same_bits_under_mpirun(folder, alone):
    assert top1(folder, "my_task.py", "data", "--output", "two", ranks=2) == alone[0]
    assert same(params(folder / "two"), params(alone[1]))


def test_the_private_bias_helps_as_the_readme_says(folder, alone):
    figure = top1(folder, "my_task.py", "data", "--private", "out.bias", "--output", "private")
    assert figure > alone[0] + 0.1
    assert figure == pytest.approx(claimed(README)[1], abs=0.03)
    assert "out.bias" not in params(folder / "private")
    biases = private(folder / "private")
    assert len({arrays["out.bias"].tobytes() for arrays in biases.values()}) == len(biases) > 40


def test_the_examples_of_the_rows_model_add_up_to_its_loss(folder, monkeypatch):
    import paddle

    monkeypatch.syspath_prepend(folder)
    from my_rows_model import RowsModel

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 6)).astype("float32"), rng.integers(0, 4, 9)
    model, batch = RowsModel(6, 4), {"x": paddle.to_tensor(x), "y": paddle.to_tensor(y)}
    _, expected = model.loss(batch)
    found = model.example_metrics(batch)
    assert set(found) == set(expected)
    for name, (sums, count) in found.items():
        assert float(sums.astype("float64").sum()) == pytest.approx(float(expected[name][0]), rel=1e-6)
        assert count * len(sums) == expected[name][1]


@pytest.mark.slow
def test_the_readmes_own_sampler_and_server_step(folder):
    output = folder / "rules"
    assert top1(folder, "my_rules.py", "data", "--output", "rules", ranks=2) > 1.5 * CHANCE
    cohorts = json.loads((output / "cohorts.json").read_text(encoding="utf-8"))
    users = json.loads((folder / "data" / "20200101" / "train.json").read_text(encoding="utf-8"))
    sizes = {uid: len(user["y"]) for uid, user in users.items()}
    assert all(len(set(cohort)) == 10 for cohort in cohorts)
    # By size, larger users than the average take part.
    drawn = [sizes[uid] for cohort in cohorts for uid in cohort]
    assert np.mean(drawn) > 1.1 * np.mean(list(sizes.values()))


@pytest.mark.slow
def test_a_sampler_of_the_page_is_chosen_by_its_name_on_all_ranks(folder):
    by_name = ["my_choice.py", "data", "--rounds", "3", "--sampler"]
    for output, ranks, text in (("one", 1, "by-size(5, power=2)"), ("three", 3, "by-size(5, 2.0)")):
        top1(folder, *by_name, text, "--output", f"choice-{output}", ranks=ranks)
    one, three = (folder / f"choice-{output}" for output in ("one", "three"))
    cohorts = [json.loads((output / "cohorts.json").read_text(encoding="utf-8")) for output in (one, three)]
    assert cohorts[0] == cohorts[1]
    assert [len(cohort) for cohort in cohorts[0]] == [5, 5, 5]
    assert same(params(one), params(three))
    for output in (one, three):
        assert "\n  sampler: by-size(sample_num=5, power=2.0)\n" in (output / "config.yaml").read_text(encoding="utf-8")
    done = run_in(folder, *by_name, "by-size(power='x')", ranks=3)
    assert done.stderr == (
        "my_choice.py: error: --sampler \"by-size(power='x')\": power is 'x'; it must be a number\n"
    )  # fmt: skip


@pytest.mark.slow
def test_the_readmes_own_server_step_is_bounded(folder):
    top1(folder, "my_rules.py", "data", "--output", "one", "--rounds", "1", "--server-lr", "50")
    before, after = params(folder / "one", "initial"), params(folder / "one")
    steps = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in before])
    assert steps.max() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.slow
def test_the_prox_example_without_its_pull_is_the_plain_task(folder, alone):
    assert top1(folder, "my_prox.py", "data", "--output", "prox0", "--mu", "0") == alone[0]
    assert same(params(folder / "prox0"), params(alone[1]))


@pytest.mark.slow
def test_the_prox_example_stays_nearer_to_its_start(folder, alone):
    top1(folder, "my_prox.py", "data", "--output", "prox", "--mu", "2")

    def moved(output):
        before, after = params(output, "initial"), params(output)
        return sum(((after[name] - before[name]) ** 2).sum() for name in before)

    assert moved(folder / "prox") < 0.8 * moved(alone[1])


@pytest.mark.slow
def test_the_sweep_goes_on_after_the_learning_rate_that_diverges(folder):
    done = run_in(folder, "sweep.py")
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines() if line.startswith(("0.05 ", "0.1 ", "1e+30 "))]
    assert [words[:2] for words in said] == [["0.05", "top1"], ["0.1", "top1"], ["1e+30", "failed:"]]


@pytest.mark.slow
def test_the_callback_of_the_docs_stops_a_run(folder):
    code = (
        "from my_callbacks import Target\nfrom my_task import ActivityReader, ActivityTrainer\n"
        "from simulator import Settings, run\nif __name__ == '__main__':\n"
        "    settings = Settings(data='data', output='target', test_sampler='none')\n"
        "    done = run(settings, reader=ActivityReader(), trainer=ActivityTrainer(), callbacks=[Target(1.0)])\n"
        "    print('stopped:', done.stopped, done.metrics['loss'][-2:])\n"
    )
    (folder / "target.py").write_text(code)
    done = run_in(folder, "target.py")
    assert done.returncode == 0, done.stderr
    assert "stopped: a loss of 0." in done.stdout
    assert "after round " in done.stdout


def test_the_docs_readers_of_leafs_files_can_be_made(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import leaf_readers

    assert all(reader.read for reader in (leaf_readers.femnist, leaf_readers.shakespeare, leaf_readers.sent140))


def test_only_shards_import_paddle_in_the_new_task(folder):
    code = "import sys, my_task; sys.exit('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_the_record_has_the_files_and_columns_the_readme_lists(folder, alone):
    output = alone[1]
    left, columns = RECORD.split("The columns of `metrics.csv`:")
    files = [name for row in rows(left) for name in spans(row[0])]
    assert len(files) == 14
    # Of algorithms with arrays of their own, of private parameters, and of callbacks.
    rare = {"params/final.GROUP.npz", "params/private/UID.npz", "params/best.npz", "params/best.json", "tensorboard/"}
    assert {name for name in files if not list(output.glob(name.replace("step-N", "step-*")))} == rare
    told = [name for row in rows(columns.partition("\n## ")[0]) for name in spans(row[0])]
    named = [name for name in told if not name.startswith(("personal_", "new_"))]
    head = (output / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert named == head
    for line in (output / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]:
        values = dict(zip(head, line.split(","), strict=True))
        parts = [float(values[name]) for name in ("train", "pull", "push", "wait")]
        assert sum(parts) == pytest.approx(float(values["seconds"]), abs=1e-4)


# -- links and files ---------------------------------------------------------------


def slug(title):
    """The anchor a code-hosting page gives a title."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.M)
    return {slug(title) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_links_are_checked_at_all():
    assert sum(len(re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_exists(page, alone):
    text = page.read_text(encoding="utf-8")
    files = [name for name in spans(text) if re.fullmatch(r"[\w./-]+\.(py|md|proto|json|yaml|npz|csv)", name)]
    made = {*programs(), "my.yaml", *FOREIGN_FILES}
    forbidden = {name.strip("`") for name in re.findall(r"Do not name your files (.+?):", README)}
    forbidden = {part for names in forbidden for part in re.findall(r"\w+\.py", names)}
    for name in set(files) - made - forbidden:
        places = [ROOT, page.parent, alone[1], ROOT / "lm_data", ROOT / "lm_data" / "20200101"]
        places += [ROOT / "lm_data" / "20200102"]
        known = any((place / name).exists() for place in places)
        assert known or name in private_and_optional(), name


def private_and_optional():
    """Files that only some runs have: of algorithms, callbacks, private parameters, sets that are dealt out, LEAF."""
    return {
        "partition.json",
        "params/private/UID.npz",
        "params/final.GROUP.npz",
        "params/best.npz",
        "params/best.json",
        "val_data.json",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_folder_named_exists(page):
    names = [name for name in spans(page.read_text(encoding="utf-8")) if re.fullmatch(r"[a-z_]+/", name)]
    made = {"train/", "test/", "tensorboard/", *FOREIGN_FOLDERS}
    houses = (ROOT, ROOT / "scheduler", ROOT / "simulator")
    there = {name for name in names for house in houses if (house / name).is_dir()}
    assert set(names) - made - there == set()


# -- settings ------------------------------------------------------------------------


def flags(kind=Settings):
    names = {f"--{name.replace('_', '-')}" for name in kind.model_fields if name != "data"}
    switches = {f"--no-{name.replace('_', '-')}" for name, f in kind.model_fields.items() if f.annotation is bool}
    return names | switches | {"--help"}


@cache
def tool_options():
    """Options of the tools that prepare data, of foreign programs, and of the examples' settings."""
    places = ("lm_data/prepare.py", "reader/partition/command.py", "experiments/run.py")
    sources = "\n".join((ROOT / place).read_text(encoding="utf-8") for place in places)
    own = set(re.findall(r'add_argument\("(--[a-z-]+)"', sources))
    pages = [programs()["my_prox.py"], *(page.read_text(encoding="utf-8") for page in (ROOT / "examples").glob("*.py"))]
    names = re.findall(r"^    (\w+): .+ = Field\(", "\n".join(pages), re.M)
    examples = {f"--{name.replace('_', '-')}" for name in names}
    return own | examples | set().union(*FOREIGN_OPTIONS.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_named_exists(page):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
    assert named - flags() - tool_options() == set()


def test_foreign_options_are_named_only_with_their_program():
    for program, options in FOREIGN_OPTIONS.items():
        for option in options:
            used = [page for page in PAGES if option in page.read_text(encoding="utf-8")]
            assert used
            assert all(program in page.read_text(encoding="utf-8") for page in used)


def section(text, title):
    """The text below a title, up to the next of its rank."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def rows(text):
    """Cells of the rows of all tables, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cut = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    ruled = {i for i, cells in enumerate(cut) if all(re.fullmatch(r"-+", cell) for cell in cells)}
    return [cells for i, cells in enumerate(cut) if i not in ruled and i + 1 not in ruled]


def test_the_settings_table_tells_the_defaults():
    checked = 0
    for names, defaults, _ in rows(section(README, "Settings")):
        told = [value.strip() for value in defaults.split(",")]
        for flag, value in zip(spans(names), told, strict=len(told) > 1):
            if flag == "DATA":
                continue
            default = Settings.model_fields[flag[2:].replace("-", "_")].default
            if default not in (None, False, ()):
                assert value == str(default), flag
                checked += 1
    assert checked > 10


def test_the_recipes_server_learning_rate():
    settings = RecipeSettings.model_construct(server_optimizer="fedavg", server_lr=None)
    rate = settings.make_server_optimizer().learning_rate
    assert f"fedavg, {rate} (1 in a task of your own)" in section(README, "Settings")


def test_the_tables_of_choices_are_complete():
    told = rows(section(README, "Algorithms, samplers, server optimizers"))
    named = {flag[2:].replace("-", "_"): spans(cells[1]) for cells in told for flag in spans(cells[0])}
    assert set(named) == set(REGISTRIES)
    for setting, names in named.items():
        assert sorted(names) == sorted(REGISTRIES[setting])


def test_the_readme_is_short():
    assert len(README.splitlines()) < 280


# -- errors ----------------------------------------------------------------------------


@cache
def patterns():
    """(letters, regular expression) of all longer texts in the sources, formatted ones with gaps."""
    found = []
    for folder in ("protos", "scheduler", "simulator", "reader", "trainer", "model"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            # The pieces of a text are no texts of their own.
            pieces = {id(piece) for node in nodes if text_of(node) for piece in ast.iter_child_nodes(node)}
            for node in nodes:
                parts = [] if id(node) in pieces else text_of(node)
                letters = sum(len(part) for part in parts if part)
                if letters > 12:
                    found.append((letters, "".join(".+?" if part is None else re.escape(part) for part in parts)))
    return found


def text_of(node):
    """Literal pieces of a text, None for a gap; empty if it is none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return [*(left or [None]), *(right or [None])] if left or right else []
    if isinstance(node, ast.JoinedStr):
        return [value.value if isinstance(value, ast.Constant) else None for value in node.values]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def error_lines():
    return [spans(cells[0])[0] for cells in rows(ERRORS)]


def test_the_error_table_is_read_at_all():
    assert len(error_lines()) > 25
    assert set(error_lines()) >= FOREIGN_LINES


@pytest.mark.parametrize("line", sorted(set(error_lines()) - FOREIGN_LINES))
def test_every_error_line_is_one_of_the_programs(line):
    message = re.sub(r"^(\S+\.py: )?error: |^rank \d+: ", "", line)
    spelt_out = [letters for letters, pattern in patterns() if re.search(pattern, message)]
    # A good part of the line must stand in the sources, so that no other text vouches for it.
    assert max(spelt_out, default=0) >= min(20, len(message) / 3), message


def test_python_says_that_the_folder_is_missing_on_the_command_line(folder):
    assert "the following arguments are required: DATA" in run_in(folder, "my_task.py").stderr


def test_python_says_that_a_file_hides_a_package(folder, tmp_path):
    (tmp_path / "trainer.py").write_text((folder / "my_task.py").read_text(encoding="utf-8"), encoding="utf-8")
    line = "ImportError: cannot import name 'TrainerBase' from partially initialized module 'trainer'"
    assert line in run_in(tmp_path, "trainer.py", "data").stderr


# -- the protocol ------------------------------------------------------------------------


@pytest.mark.parametrize(("proto", "service"), [("scheduler_server", "SchedulerServer"), ("data_server", "DataServer")])
def test_every_method_is_in_the_protocol_page(proto, service):
    text = (ROOT / "protos" / f"{proto}.proto").read_text(encoding="utf-8")
    methods = re.findall(r"^  rpc (\w+)\(", text, re.M)
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    told = [spans(cells[0])[0] for cells in rows(section(page, service))]
    assert sorted(told) == sorted(methods)
