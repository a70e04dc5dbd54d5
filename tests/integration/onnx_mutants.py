# ruff: noqa: E501, T201
# mypy: ignore-errors
# ruff: noqa: E501, T201
# mypy: ignore-errors
"""Mutated ONNX packages through the probation child, many per process: `python onnx_mutants.py FOLDER SEED FIRST COUNT`.

The process is warmed once (onnxruntime imported, no session made), then forks for each mutant; the fork walls itself in
as a probation child does, before it reads the mutant, and judges it. The parent prints, as JSON, how often each ending
was seen. A mutant depends on the seed and its number only, so that any one of them can be tried again.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from windlass import plugins
from windlass.packaging import archive, probation_child
from windlass.security import confine, sandbox
from windlass.storage import blobs
from windlass.types import manifest, signature, tensor_codec

WALL_S = 3.0
MEMORY = 2 << 30
EXTREMES = (
    0,
    1,
    -1,
    2,
    127,
    -128,
    1 << 20,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 31,
    (1 << 32) + 1,
    (1 << 62) - 1,
    -(1 << 63),
)


def weights(name, *shape):
    return numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)


def model(nodes, initializers, width=8):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def seeds():
    """Small models over the kinds of operator that real ones have: dense, convolution, recurrence, control flow, trees."""
    node = helper.make_node
    one = numpy_helper.from_array(np.array([-1, 1, 2, 4], np.int64), "shape")
    two = numpy_helper.from_array(np.array([0, -1], np.int64), "flat")
    dense = model(
        [
            node("Gemm", ["x", "w", "b"], ["h"], alpha=1.0, transB=0),
            node("Relu", ["h"], ["r"]),
            node("Softmax", ["r"], ["y"], axis=-1),
        ],
        [weights("w", 8, 4), weights("b", 4)],
    )
    convolution = model(
        [
            node("Reshape", ["x", "shape"], ["i"]),
            node(
                "Conv",
                ["i", "k"],
                ["c"],
                kernel_shape=[1, 3],
                pads=[0, 1, 0, 1],
                strides=[1, 1],
                dilations=[1, 1],
                group=1,
            ),
            node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
            node("Reshape", ["m", "flat"], ["y"]),
        ],
        [weights("k", 3, 1, 1, 3), one, two],
    )
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    recurrence = model(
        [
            node("Unsqueeze", ["x", "axes"], ["s"]),
            node("LSTM", ["s", "w", "r"], ["o", "h"], hidden_size=4),
            node("Squeeze", ["h", "axes"], ["y"]),
        ],
        [weights("w", 1, 16, 8), weights("r", 1, 16, 4), axes],
    )
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["v", "v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    times = numpy_helper.from_array(np.array(3, np.int64), "times")
    begin = numpy_helper.from_array(np.array([0, 1], np.int64), "begin")
    end = numpy_helper.from_array(np.array([99, 7], np.int64), "end")
    control = model(
        [
            node("Loop", ["times", "start", "x"], ["l"], body=body),
            node("Slice", ["l", "begin", "end"], ["s"]),
            node("TopK", ["s", "k"], ["y", "n"], axis=1),
        ],
        [
            times,
            begin,
            end,
            numpy_helper.from_array(np.array(True), "start"),
            numpy_helper.from_array(np.array([2], np.int64), "k"),
        ],
    )
    trees = model(
        [
            node(
                "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
                nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 3, 0, 0, 0],
                nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"], nodes_values=[0.1, -0.2, 0.0, 0.0, 0.0],
                nodes_truenodeids=[1, 3, 0, 0, 0], nodes_falsenodeids=[2, 4, 0, 0, 0],
                target_treeids=[0] * 3, target_nodeids=[2, 3, 4], target_ids=[0] * 3, target_weights=[1.0, 2.0, 3.0],
            )
        ],
        [],
    )  # fmt: skip
    return [dense, convolution, recurrence, control, trees]


def golden_output(proto):
    """By the reference in Python: this process must not make a session of its own."""
    return ReferenceEvaluator(proto).run(None, {"x": np.ones((2, 8), np.float32)})[0].astype(np.float32)


def mutate_structure(proto, chance):
    """Change what a well-formed file says: attributes, shapes, types, wiring, raw data."""
    graph = proto.graph
    kind = chance.choice(
        (
            "attribute",
            "attribute",
            "attribute",
            "dims",
            "type",
            "wire",
            "raw",
            "constant",
            "value",
            "value",
            "input",
            "operator",
        )
    )
    nodes, tensors = list(graph.node), list(graph.initializer)
    node = chance.choice(nodes)
    if kind == "attribute" and node.attribute:
        attribute = chance.choice(list(node.attribute))
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(EXTREMES)
        elif attribute.floats:
            attribute.floats[chance.randrange(len(attribute.floats))] = chance.choice(
                (float("nan"), float("inf"), 1e38)
            )
        else:
            attribute.i = chance.choice(EXTREMES)
    elif kind == "dims" and tensors:
        tensor = chance.choice(tensors)
        if tensor.dims:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(EXTREMES)
        else:
            tensor.dims.append(chance.choice(EXTREMES))
    elif kind == "type" and tensors:
        chance.choice(tensors).data_type = chance.randrange(0, 30)
    elif kind == "wire" and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(("x", "y", "", "nowhere", *node.output))
    elif kind in ("raw", "constant") and tensors:
        tensor = chance.choice(tensors)
        if kind == "constant" and tensor.data_type == TensorProto.INT64:
            tensor.raw_data = b"".join(
                struct.pack("<q", chance.choice(EXTREMES)) for _ in range(len(tensor.raw_data) // 8)
            )
        else:
            tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    elif kind == "value" and tensors:
        tensor = chance.choice(tensors)
        data = bytearray(tensor.raw_data)
        for _ in range(3):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        tensor.raw_data = bytes(data)
    elif kind == "input":
        graph.input[0].type.tensor_type.elem_type = chance.randrange(0, 24)
    else:
        node.op_type = chance.choice(
            ("Gather", "Resize", "Pad", "Tile", "Expand", "GRU", "Scan", "If", "Einsum", "ConstantOfShape")
        )


def mutate_bytes(data, chance):
    """Change the file as a bad disk or a blunt fuzzer would."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(len(data))
        how = chance.randrange(6)
        if how == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            data[at] = chance.choice((0, 0x7F, 0x80, 0xFF))
        elif how == 2:
            data[at : at + chance.randrange(1, 9)] = b"\xff" * chance.randrange(1, 11)
        elif how == 3:
            del data[at : at + chance.randrange(1, 33)]
        elif how == 4:
            data[at:at] = data[at // 2 : at // 2 + chance.randrange(1, 65)]
        else:
            data = data[: max(1, at)]
        if not data:
            data = bytearray(b"\x08")
    return bytes(data)


def mutant(seed, number, originals):
    """The bytes of mutant `number`."""
    chance = random.Random(f"{seed}/{number}")
    proto = onnx.ModelProto()
    proto.CopyFrom(originals[number % len(originals)])
    if chance.random() < 0.75:
        for _ in range(chance.choice((1, 1, 1, 2))):
            mutate_structure(proto, chance)
        return proto.SerializeToString()
    return mutate_bytes(proto.SerializeToString(), chance)


def package(data, golden):
    """A package around a model that may be anything, with the golden output of the model that it was."""
    spec = signature.Signature(
        (signature.TensorSpec("x", "FP32", ("batch", 8)),), (signature.TensorSpec("y", "FP32", ("batch", "n")),)
    )
    golden_in = tensor_codec.pack({"x": np.ones((2, 8), np.float32)})
    golden_out = tensor_codec.pack({"y": golden})
    refs = [manifest.BlobRef(blobs.digest_of(part), len(part)) for part in (data, golden_in, golden_out)]
    value = manifest.Manifest(
        name="mutant",
        kind="model",
        signature=spec,
        model=manifest.ModelSpec(runtime="onnx", blobs={"model.onnx": refs[0]}, ir_version=10, opset=20),
        golden=manifest.Golden(refs[1], refs[2], rtol=1e-3, atol=1e-5),
    )
    return archive.in_memory(
        value, {ref.digest: part for ref, part in zip(refs, (data, golden_in, golden_out), strict=True)}
    )


def judge_walled_in(parent, where, scratch):
    """In the fork: never returns."""
    confine.die_with(parent)
    policy = confine.Policy(
        parent=parent,
        report=-1,
        scratch=str(scratch),
        readable=(*sandbox.python_paths(), str(where)),
        listable=(),
        memory=MEMORY,
        cpu_s=int(WALL_S),
        file_size=1 << 20,
        open_files=64,
        niceness=0,
        allow_weaker=False,
    )
    if set(confine.REQUIRED) & set(confine.apply(policy)):
        os._exit(confine.REFUSED_EXIT_CODE)
    code = probation_child.judge(where)
    sys.stdout.flush()
    os._exit(code)


def ending(pid):
    """Wait for a fork, at most WALL_S."""
    deadline = time.monotonic() + WALL_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "passed", 1: "refused"}.get(code, signal.Signals(-code).name if code < 0 else f"exit {code}")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "time"
        time.sleep(0.001)


def main(folder, seed, first, count):
    seen, reasons = collections.Counter(), collections.Counter()
    crashed = []
    originals = seeds()
    golden = [golden_output(proto) for proto in originals]
    output = os.open(folder / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    where, scratch = folder / "package", folder / "scratch"
    silence = os.open(os.devnull, os.O_WRONLY)
    scratch.mkdir()
    plugins.load("runtimes", "onnx")
    for number in range(first, first + count):
        for name, data in package(mutant(seed, number, originals), golden[number % len(golden)]).entries():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(data)
        pid = os.fork()
        if pid == 0:
            os.dup2(output, 1)
            os.dup2(silence, 2)
            judge_walled_in(os.getppid(), where, scratch)
        how = ending(pid)
        seen[how] += 1
        if how not in ("passed", "refused"):
            crashed.append(number)
        if how == "refused":
            reasons[os.pread(output, 100, 0).decode(errors="replace").partition(":")[0]] += 1
        os.ftruncate(output, 0)
        os.lseek(output, 0, os.SEEK_SET)
        shutil.rmtree(where)
    print(json.dumps({"seen": dict(seen), "refused": dict(reasons), "numbers": crashed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
