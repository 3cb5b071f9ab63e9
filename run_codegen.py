"""Makes the gRPC stubs from `protos/*.proto` with grpcio-tools.

The install runs this; without an install, run it by hand:

    python run_codegen.py && export PYTHONPATH=$PWD

Stubs check the version of the protobuf runtime, so they are made where they are
used and are never committed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def generate(root: Path = ROOT) -> list[Path]:
    """Writes `*_pb2.py`, its types and `*_pb2_grpc.py` beside each proto file.

    Args:
        root: the folder that holds `protos/`.

    Returns:
        The proto files that were turned into stubs.

    Raises:
        RuntimeError: protoc refused a file.
        ModuleNotFoundError: grpcio-tools is not installed.
    """
    from grpc_tools import protoc

    sources = sorted((root / "protos").glob("*.proto"))
    for source in sources:
        name = source.relative_to(root).as_posix()
        outputs = [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
        status = protoc.main(["protoc", f"-I{root}", *outputs, name])
        if status != 0:
            raise RuntimeError(f"protoc failed on {name} with status {status}")
    return sources


def main() -> None:
    """Generates the stubs and says which."""
    try:
        made = generate()
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: install the generator first (pip install grpcio-tools)")
    sys.stdout.write(f"stubs made for {', '.join(p.name for p in made)}\n")


if __name__ == "__main__":
    main()
