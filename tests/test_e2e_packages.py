"""What an install from a wheel or a source archive has, and that nothing of another checkout gets into a run."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from running import ROOT, TINY, environment
from tiny_task import make_data

PACKAGES = ["lm_data", "model", "protos", "reader", "scheduler", "simulator", "trainer"]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".*_cache", "__pycache__", "build", "dist", "runs", "*.egg-info", "*_pb2*", ".venv", ".hypothesis"
)


def run(*command, cwd, path=None):
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environ.pop("PYTHONPATH", None)
    if path is not None:
        environ["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source archive, made from a clean copy of the checkout without a network."""
    folder = tmp_path_factory.mktemp("built")
    source = shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    run("setup.py", "-q", "sdist", "--dist-dir", folder, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    # The wheel from the archive: so that holds all that a build needs.
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, unpacked,
        cwd=folder)  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel, archive


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder, built[0], cwd=folder)
    return folder


@pytest.mark.slow
def test_a_wheel_has_the_packages_and_no_other_names(built):
    with zipfile.ZipFile(built[0]) as file:
        names = file.namelist()
    modules = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert sorted(modules) == PACKAGES
    for stem in ("tensor", "data_server", "peer_server", "scheduler_server"):
        assert {f"protos/{stem}.proto", f"protos/{stem}_pb2.py", f"protos/{stem}_pb2.pyi"} <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES if package != "lm_data"} <= set(names)
    assert not [name for name in names if name.endswith((".json", ".md")) and ".dist-info/" not in name]


@pytest.mark.slow
def test_a_source_archive_has_what_a_checkout_has_but_no_stubs(built):
    with tarfile.open(built[1]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"application.py", "run_codegen.py", "setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE",
              "lm_data/20200101/train_data.json", "lm_data/README.md", "tests/tiny_task.py", "docs/protocol.md",
              "protos/tensor.proto", "benchmarks/common.py", ".ci/run"}  # fmt: skip
    assert wanted <= names
    assert not [name for name in names if "_pb2" in name or "__pycache__" in name]


@pytest.mark.slow
def test_an_install_from_a_wheel_works_by_itself(installed, tmp_path):
    where = "import simulator, protos.codec, reader, trainer; print(simulator.__file__, protos.codec.__file__)"
    for file in run("-c", where, cwd=tmp_path, path=installed).split():
        assert file.startswith(str(installed))
    assert "pushshift" in run(installed / "bin" / "flsim-prepare", "--help", cwd=tmp_path, path=installed)
    assert "pushshift" in run("-m", "lm_data.prepare", "--help", cwd=tmp_path, path=installed)
    assert "dirichlet" in run(installed / "bin" / "flsim-partition", "--help", cwd=tmp_path, path=installed)
    assert "dirichlet" in run("-m", "reader.partition", "--help", cwd=tmp_path, path=installed)
    assert run("-m", "protos.codegen", cwd=tmp_path, path=installed).startswith("stubs made for ")


def test_prepare_runs_from_a_checkout_as_a_script(tmp_path):
    assert "pushshift" in run(ROOT / "lm_data" / "prepare.py", "--help", cwd=tmp_path)


def test_a_run_in_the_folder_of_another_checkout_takes_nothing_from_it(tmp_path):
    other = tmp_path / "other" / "simulator"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('the other checkout')\n")
    data = make_data(tmp_path / "data")
    flags = ["--rounds", "1", "--sample-num", "2", "--shards", "1", "--test-sampler", "none"]
    done = subprocess.run(
        [sys.executable, str(TINY), str(data), *flags, "--output", str(tmp_path / "out")], cwd=other.parent,
        env=environment(), capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
