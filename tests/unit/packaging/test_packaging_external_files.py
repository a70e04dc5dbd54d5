"""packaging/external_data.py on disk: an ONNX file with its data beside it, as users have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from windlass import errors
from windlass.packaging import external_data

DATA = np.arange(12, dtype=np.float32).tobytes()


def lay(root: Path, location: str = "w.bin") -> Path:
    """A model in a folder; its one weight is said to be in another file there."""
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4, 3], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, 1, ("batch", size)) for name, size in (("x", 4), ("y", 3)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (root / "in").mkdir(parents=True)
    (root / "in" / "net.onnx").write_bytes(made.SerializeToString())
    return root / "in" / "net.onnx"


def test_files_are_read(tmp_path: Path) -> None:
    path = lay(tmp_path)
    (path.parent / "w.bin").write_bytes(DATA)
    files = external_data.read_files(path)
    assert files == {"model.onnx": path.read_bytes(), "w.bin": DATA}


def test_subfolders_are_read(tmp_path: Path) -> None:
    path = lay(tmp_path, "a/b/w.bin")
    (path.parent / "a" / "b").mkdir(parents=True)
    (path.parent / "a" / "b" / "w.bin").write_bytes(DATA)
    assert external_data.read_files(path)["a/b/w.bin"] == DATA


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "not beside it"),
        ("symlink", "is a link or cannot be read"),
        ("hard-link", "is a hard link"),
        ("fifo", "no regular file"),
        ("folder", "no regular file|cannot be read"),
        ("proc", "is a link or cannot be read"),
        ("parent-symlink", "is a link or cannot be read"),
        ("short", "reaches beyond the end"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = lay(tmp_path, "sub/w.bin" if kind == "parent-symlink" else "w.bin")
    at, secret = path.parent / "w.bin", tmp_path / "secret"
    secret.write_bytes(DATA)
    if kind == "symlink":
        at.symlink_to(secret)
    elif kind == "hard-link":
        at.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(at)
    elif kind == "folder":
        at.mkdir()
    elif kind == "proc":
        at.symlink_to("/proc/self/mem")
    elif kind == "parent-symlink":
        (tmp_path / "w.bin").write_bytes(DATA)
        (path.parent / "sub").symlink_to(tmp_path)
    elif kind == "short":
        at.write_bytes(DATA[:-1])
    with pytest.raises(errors.CorruptPackage, match=message):
        external_data.read_files(path)
