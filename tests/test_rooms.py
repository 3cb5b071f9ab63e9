"""The rooms of the design: who may import whom, what an import costs, and that stubs are made and not kept."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# protos <- scheduler <- simulator <- application -> trainer -> model, application -> reader
MAY_IMPORT = {
    "protos": {"protos"},
    "scheduler": {"protos", "scheduler"},
    "simulator": {"protos", "scheduler", "simulator"},
    "reader": {"reader"},
    "model": {"model"},
    "trainer": {"trainer", "model", "scheduler"},
    # It takes choices and random streams from the rules; readers have nothing of it.
    "reader/partition": {"protos", "reader", "scheduler"},
    "application": {"reader", "scheduler", "simulator", "trainer"},
    "run_codegen": {"protos"},
    "examples": {"reader", "scheduler", "simulator", "trainer", "model"},
}
SOURCES = sorted(
    path
    for room in sorted({name.split("/")[0] for name in MAY_IMPORT})
    for path in ([ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else (ROOT / room).rglob("*.py"))
    if "_pb2" not in path.name
)
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]


def imported(node):
    """Full names of the modules an import or a call of import_module with a plain name brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in ("import_module", "__import__"):
            return [node.args[0].value]
    return []


def top(name):
    return name.split(".")[0]


def all_imports(tree):
    return {name for node in ast.walk(tree) for name in imported(node)}


def imports_at_module_level(tree):
    """What importing the module itself imports: not in functions, not for the type checker alone."""
    found, todo = set(), list(tree.body)
    while todo:
        node = todo.pop()
        found.update(imported(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return found


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room_of(path):
    """The innermost of the rooms that a source is in."""
    inside = path.relative_to(ROOT)
    rooms = [folder.as_posix() for folder in inside.parents if folder.as_posix() in MAY_IMPORT]
    return rooms[0] if rooms else inside.parts[0].removesuffix(".py")


def test_every_room_is_looked_at():
    assert {room_of(path) for path in SOURCES} == set(MAY_IMPORT)
    assert len(NAMES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports_go_one_way(path):
    used = {top(name) for name in all_imports(parsed(path))} & set(MAY_IMPORT)
    assert used <= MAY_IMPORT[room_of(path)]


def test_readers_have_nothing_of_the_partitioners():
    """A reader travels to worker processes, which need no more than it."""
    for path in (ROOT / "reader").glob("*.py"):
        assert not [name for name in all_imports(parsed(path)) if name.startswith("reader.partition")], path


# Within these two, a room imports from those before it only.
ROOMS = {
    "scheduler": ["rules", "state", "service"],
    "simulator": [
        "machine", "launch", "users", "shards", "worker", "exchange", "output", "callbacks", "checkpoints", "running",
    ],
}  # fmt: skip


@pytest.mark.parametrize("house", list(ROOMS))
def test_rooms_import_one_way(house):
    order = ROOMS[house]
    assert sorted(order) == sorted(path.parent.name for path in (ROOT / house).glob("*/__init__.py"))
    wrong = []
    for place, room in enumerate(order):
        for path in (ROOT / house / room).glob("*.py"):
            used = {name.split(".")[1] for name in all_imports(parsed(path)) if name.startswith(f"{house}.")}
            wrong += [(path.name, other) for other in used & set(order[place + 1 :])]
    assert wrong == []


def test_the_core_names_no_concrete_reader_trainer_or_model():
    concrete = ("language_model", "leaf_reddit", "LanguageModel", "LeafReddit")
    core = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("protos", "scheduler", "simulator")]
    assert core
    for path in core:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in concrete if word in text], path


def test_mpi_is_imported_by_the_role_maker_alone_and_not_at_its_top():
    users = [path for path in SOURCES if "mpi4py" in {top(name) for name in all_imports(parsed(path))}]
    assert [path.relative_to(ROOT).as_posix() for path in users] == ["simulator/launch/role_maker.py"]
    assert "mpi4py" not in {top(name) for name in imports_at_module_level(parsed(users[0]))}


# What these pickle goes from a process to its own children: over a pipe, or in a folder that nobody else can enter.
BETWEEN_OWN_PROCESSES = ("simulator/shards/sending.py", "simulator/running/rank_main.py")


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_that_could_come_from_another_host_is_unpickled(path):
    tree = parsed(path)
    if path.relative_to(ROOT).as_posix() in BETWEEN_OWN_PROCESSES:
        return
    assert not {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"} & set(
        map(top, all_imports(tree))
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert node.value.value is False
        # mpi4py's methods in lower case pickle, those with a capital take buffers.
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self._comm", "comm"):
            assert node.attr[0].isupper(), node.attr
        # What `recv` unpickles comes over the private pipe between a simulator and its own shards.
        if isinstance(node, ast.Attribute) and node.attr == "recv":
            assert path.name in ("main.py", "process.py")


def test_certificates_alone_use_cryptography_and_not_at_their_top():
    users = [path for path in SOURCES if "cryptography" in {top(name) for name in all_imports(parsed(path))}]
    assert [path.relative_to(ROOT).as_posix() for path in users] == ["protos/certificates.py"]
    assert "cryptography" not in {top(name) for name in imports_at_module_level(parsed(users[0]))}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_paddle_is_imported_at_the_top_of_models_alone(path):
    if path.parent.name != "model" and not path.name.endswith("_model.py"):
        assert not {"paddle", "model"} & {top(name) for name in imports_at_module_level(parsed(path))}


def test_the_check_sees_every_kind_of_import():
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import types_only\nelse:\n    import other\n"
        "try:\n    from c import d\nexcept ImportError:\n    pass\n"
        "class K:\n    import e\ndef f():\n    import lazy\nimportlib.import_module('g')\n"
    )
    assert imports_at_module_level(tree) == {"a.b", "other", "c", "c.d", "e", "g"}
    assert all_imports(tree) == {"a.b", "other", "c", "c.d", "e", "g", "types_only", "lazy"}


def python(code, *, cwd, path=ROOT):
    environ = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_importing_the_application_imports_neither_paddle_nor_mpi(tmp_path):
    code = "import sys, application; print(sorted({'paddle', 'mpi4py', 'model', 'simulator'} & set(sys.modules)))"
    done = python(code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("['simulator']\n", "")


def test_no_stub_is_kept_in_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    files = listed.stdout.splitlines()
    assert "protos/tensor.proto" in files
    assert [name for name in files if "_pb2" in name] == []


@pytest.fixture
def bare(tmp_path):
    """A copy of protos/ and run_codegen.py without stubs."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*_pb2*", "__pycache__"))
    shutil.copy(ROOT / "run_codegen.py", tmp_path)
    return tmp_path


def test_a_missing_stub_says_so_in_one_line(bare):
    # An editable install finds submodules of the checkout even for a package from elsewhere.
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]; import protos.codec"
    done = python(code, cwd=bare, path=bare)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("the gRPC stubs cannot be used (")
    assert done.stderr.endswith("make them with  python run_codegen.py\n")
    assert done.stderr.count("\n") == 1


LENDER = """
import sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("protos."):
            return PathFinder.find_spec(name, [LENT])

sys.meta_path[:] = [*(f for f in sys.meta_path if "ditable" not in repr(f)), Editable]
import protos.codec
"""


def test_stubs_of_another_checkout_that_is_installed_are_not_borrowed(bare):
    """An editable install finds submodules of its own checkout, even for a package from elsewhere."""
    lent = ROOT / "protos"
    done = python(LENDER.replace("LENT", repr(str(lent))), cwd=bare, path=bare)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"the gRPC stubs cannot be used (data_server_pb2.py is not in {bare / 'protos'}; those in {lent} are another's)"
    )
    assert done.stderr.endswith("make them with  python run_codegen.py\n")
    assert done.stderr.count("\n") == 1


def test_stubs_are_made_in_an_installed_package_too(bare):
    (bare / "run_codegen.py").unlink()
    done = python("import protos.codec", cwd=bare, path=bare)
    assert done.stderr.endswith("make them with  python -m protos.codegen\n")
    done = python("import runpy; runpy.run_module('protos.codegen', run_name='__main__')", cwd=bare, path=bare)
    assert done.stdout.startswith("stubs made for ")
    assert python("import protos.codec", cwd=bare, path=bare).returncode == 0


def test_codegen_makes_the_stubs(bare):
    done = python("import run_codegen; run_codegen.main(); import protos.codec", cwd=bare, path=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "stubs made for data_server.proto, peer_server.proto, scheduler_server.proto, tensor.proto\n"
    made = sorted(path.name for path in (bare / "protos").glob("*_pb2*"))
    kinds, names = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"), ("data_server", "peer_server", "scheduler_server", "tensor")
    assert made == sorted(f"{name}{kind}" for name in names for kind in kinds)


def test_codegen_without_its_tool_says_what_to_install(bare):
    code = "import sys; sys.modules['grpc_tools'] = None; import run_codegen; run_codegen.main()"
    done = python(code, cwd=bare, path=bare)
    assert done.returncode == 1
    assert done.stderr.endswith("install the generator first (pip install grpcio-tools)\n")
    assert done.stderr.count("\n") == 1


def test_a_proto_that_cannot_be_read_stops_codegen(bare):
    (bare / "protos" / "tensor.proto").write_text("syntax = nothing", encoding="utf-8")
    done = python("import run_codegen; run_codegen.generate()", cwd=bare, path=bare)
    assert done.returncode == 1
    assert "RuntimeError: protoc failed on protos/data_server.proto" in done.stderr


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_than_linux_is_told_in_one_line(tmp_path, platform):
    done = python(f"import sys; sys.platform = {platform!r}; import simulator", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"this program needs Linux (it is {platform} here); in a Linux container or WSL 2 it runs\n"
