"""Makes the gRPC stubs beside the proto files with grpcio-tools; `run_codegen.py` of a checkout is the same.

Stubs check the version of the protobuf runtime.  Where those of an installed package do
not fit it, they are made again in their place:

    python -m protos.codegen
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder that holds protos/: a checkout, or site-packages.
ROOT = Path(__file__).resolve().parent.parent


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
