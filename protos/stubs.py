"""The generated stubs, imported in one place so that a missing one says so in one line."""

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
    # Missing, or made for a newer protobuf than the one installed.  Nothing can
    # run without them, and a traceback through generated code helps nobody.
    if not isinstance(error, ImportError) and type(error).__name__ != "VersionError":
        raise
    raise SystemExit(f"the gRPC stubs cannot be used ({error}): make them with  python run_codegen.py") from error

__all__ = [
    "data_server_pb2",
    "data_server_pb2_grpc",
    "peer_server_pb2",
    "peer_server_pb2_grpc",
    "scheduler_server_pb2",
    "scheduler_server_pb2_grpc",
    "tensor_pb2",
]
