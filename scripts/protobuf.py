"""Compile the .proto files of `protocols/pb/` to the one file of descriptors that the server reads.

Run by `make protobuf` after a .proto was changed; needs grpcio-tools, which the server does not. `--check` compares
instead of writing and exits 1 on a difference. Must never write anything but that file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "src" / "windlass" / "protocols" / "pb"
WRITTEN = FOLDER / "descriptors.binpb"


def compiled() -> bytes:
    """A serialized FileDescriptorSet of every .proto file, in the order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        names = sorted(path.name for path in FOLDER.glob("*.proto"))
        if protoc.main(["protoc", f"--proto_path={FOLDER}", f"--descriptor_set_out={out}", *names]):
            raise SystemExit("protoc refused the files")
        return out.read_bytes()


def main() -> None:
    """Write, or compare."""
    if sys.argv[1:] == ["--check"]:
        raise SystemExit(int(compiled() != WRITTEN.read_bytes()))
    WRITTEN.write_bytes(compiled())


if __name__ == "__main__":
    main()
