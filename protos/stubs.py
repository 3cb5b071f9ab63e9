"""The generated stubs, imported in one place so that a missing one says so in one line."""

import importlib.util
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent / "run_codegen.py"
_MADE = [f"{proto.stem}_pb2{kind}" for proto in sorted(_HERE.glob("*.proto")) for kind in ("", "_grpc")]


def _refuse(reason: str) -> SystemExit:
    # Nothing can run without them, and a traceback through generated code helps nobody.
    cure = "python run_codegen.py" if _CHECKOUT.exists() else "python -m protos.codegen"
    return SystemExit(f"the gRPC stubs cannot be used ({reason}): make them with  {cure}")


def _check_own() -> None:
    """Refuses stubs that are not here: Python would look for them in another checkout that is installed."""
    for name in _MADE:
        if (_HERE / f"{name}.py").is_file():
            continue
        other = importlib.util.find_spec(f"protos.{name}")
        lender = (
            "" if other is None or other.origin is None else f"; those in {Path(other.origin).parent} are another's"
        )
        raise _refuse(f"{name}.py is not in {_HERE}{lender}")


_check_own()
try:
    from protos import (
        data_server_pb2,
        data_server_pb2_grpc,
        peer_server_pb2,
        peer_server_pb2_grpc,
        scheduler_server_pb2,
        scheduler_server_pb2_grpc,
        tensor_pb2,
    )
except Exception as error:
    # Made for a newer protobuf or gRPC than the one installed, or not whole.  gRPC says it with a RuntimeError.
    if not isinstance(error, ImportError | RuntimeError) and type(error).__name__ != "VersionError":
        raise
    raise _refuse(str(error)) from error

__all__ = [
    "data_server_pb2",
    "data_server_pb2_grpc",
    "peer_server_pb2",
    "peer_server_pb2_grpc",
    "scheduler_server_pb2",
    "scheduler_server_pb2_grpc",
    "tensor_pb2",
]
