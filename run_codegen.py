"""Makes the gRPC stubs from `protos/*.proto` with grpcio-tools.

The install runs this; without an install, run it by hand:

    python run_codegen.py && export PYTHONPATH=$PWD

Stubs check the version of the protobuf runtime, so they are made where they are
used and are never committed.
"""

from protos.codegen import generate, main

__all__ = ["generate", "main"]

if __name__ == "__main__":
    main()
