"""Install script: names every package and makes the gRPC stubs on the way."""

import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))


class BuildWithStubs(build_py):
    """Runs run_codegen.py before the packages are collected, editable or not."""

    def run(self):
        from run_codegen import generate

        generate(ROOT)
        super().run()


TOP = ["protos", "scheduler", "simulator", "reader", "trainer", "model", "lm_data"]
# What takes results, callbacks and notebooks in the tests.
WITNESSES = ["nbclient>=0.10", "ipykernel>=6.29", "tensorboardX>=2.6", "pandas>=2.0"]
LINTERS = ["ruff>=0.6", "mypy>=1.11", "types-PyYAML", "types-protobuf", "grpc-stubs"]

setup(
    name="fl-mobile-simulator",
    version="0.1.0",
    description="Federated-learning simulator with Paddle, MPI and private per-user parameters",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    # application.py is a page to copy and run_codegen.py a tool of the checkout: neither is a module of others.
    packages=find_packages(include=[f"{top}{rooms}" for top in TOP for rooms in ("", ".*")]),
    package_data={"": ["py.typed"], "protos": ["*.proto", "*.pyi"]},
    py_modules=[],
    entry_points={
        "console_scripts": ["flsim-prepare=lm_data.prepare:main", "flsim-partition=reader.partition.command:main"]
    },
    install_requires=[
        "paddlepaddle>=3.0,<4",
        "grpcio>=1.62",
        "grpcio-tools>=1.62",
        "protobuf>=4.25",
        "mpi4py>=4.0",
        "msgspec>=0.18.6",  # cuts LEAF's files into their users' pieces, which are then parsed one by one
        "numpy>=1.26",
        "cloudpickle>=3.0",  # classes that were typed into a notebook reach the worker processes
        "cryptography>=42",  # certificates of a run on several hosts
        "lmdb>=1.4",  # the store of examples and private parameters that all shards of a machine read
        "pillow>=9.1",  # LEAF's CelebA is files of images; Paddle needs it, too
        "orjson>=3.9",  # LEAF's files parse several times faster than with json
        "pydantic-settings>=2.16",  # settings from the command line and YAML, checked before anything starts
        "pyyaml>=6.0",
        "rich>=13.0",  # progress bar
        "setuptools",  # Paddle imports it and does not say so
    ],
    extras_require={
        "mpi": ["mpich>=4.1"],
        "tensorboard": ["tensorboardX>=2.6"],
        "test": ["pytest>=8.0", "hypothesis>=6.100", "psutil>=5.9", "zstandard>=0.22", *WITNESSES, *LINTERS],
    },
    cmdclass={"build_py": BuildWithStubs},
)
