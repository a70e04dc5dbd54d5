"""ONNX graphs as techniques need them: read from a form, prepared for quantization, and made into a form again.

Called by the techniques that work on the graph. Must never change the form it was given, nor give onnxruntime a path
that somebody else named.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime

from windlass import errors
from windlass.optimization import form as forms
from windlass.packaging import external_data, onnx_bytes
from windlass.packaging.capture import onnx_graph
from windlass.security import temporary
from windlass.types import signature, tensor

# One protobuf message holds at most 2 GiB: a graph is worked on with its weights inside, and written again.
MAX_BYTES = (2 << 30) - (64 << 20)
_LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_FATAL = 4
_QUANTIZERS = frozenset(("QuantizeLinear", "DequantizeLinear"))
_INTEGER_KINDS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize", "MatMulNBits", "QAttention")
# A search asks again and again for the same few graphs: the original, and a form or two that training made of it.
_KEPT = 2
_SMALL = 64
_prepared: OrderedDict[str, bytes] = OrderedDict()


class Health(msgspec.Struct, frozen=True):
    """What onnxruntime makes of a quantized graph: operators on integers, and pairs that no operator absorbed."""

    integer: int
    standalone: int


def refusal(form: forms.Form) -> str:
    """Why a technique that works on ONNX graphs cannot work on this form; empty where it can. Reads no weights."""
    if form.runtime != "onnx":
        return f"it works on ONNX graphs, and this form runs in '{form.runtime}'."
    if form.size > MAX_BYTES:
        return f"the model has {form.size >> 20} MB: a graph of more than {MAX_BYTES >> 20} MB cannot be rewritten."
    return ""


def read(form: forms.Form) -> onnx.ModelProto:
    """The graph of an ONNX form with its weights inside; the caller may change it.

    `Unsupported` if the form is no ONNX, or does not fit into one protobuf message (2 GB).
    """
    why = refusal(form)
    if why:
        raise errors.Unsupported(f"this form cannot be read as a graph: {why}")
    model = onnx.ModelProto.FromString(form.files[external_data.MODEL_FILE])
    for constant in model.graph.initializer:
        onnx_bytes.load(constant, form.files)
    return model


class Census(NamedTuple):
    """What a graph is written in: its opset, and how often it has each operator (`domain.Operator` if not ONNX's)."""

    opset: int
    kinds: Counter[str]


def census(form: forms.Form) -> Census:
    """What the graph of an ONNX form is written in; weights that lie beside it are not read."""
    model = onnx.ModelProto.FromString(form.files[external_data.MODEL_FILE])
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    return Census(opset, Counter(kind(node) for node in model.graph.node))


def constants(form: forms.Form) -> Iterable[onnx.TensorProto]:
    """The constants of a form's graph; of those that lie beside it, all but the bytes."""
    return list(onnx.ModelProto.FromString(form.files[external_data.MODEL_FILE]).graph.initializer)


def kind(node: onnx.NodeProto) -> str:
    """The operator of a node, with its domain unless it is ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def is_quantized(found: Iterable[str]) -> bool:
    """Whether a graph with these operators works on integers already."""
    return any(name in _QUANTIZERS or name.split(".")[-1].startswith(_INTEGER_KINDS) for name in found)


def prepared(form: forms.Form) -> onnx.ModelProto:
    """The graph ready to be quantized: constants and batch normalization folded, every node named.

    The same names each time; what it computes is the same within float rounding. The caller may change it.
    `Unsupported` if onnxruntime does not load the form.
    """
    found = _prepared.get(form.digest)
    if found is None:
        found = _prepare(read(form)).SerializeToString(deterministic=True)
        _prepared[form.digest] = found
        while len(_prepared) > _KEPT:
            _prepared.popitem(last=False)
    return onnx.ModelProto.FromString(found)


def optimized(model: onnx.ModelProto, level: Literal["basic", "extended"]) -> onnx.ModelProto:
    """What onnxruntime makes of the graph before it runs it; `Unsupported` if it does not load it.

    `basic` keeps to rewrites that hold on any processor and leaves standard operators; `extended` fuses into
    onnxruntime's own.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.graph_optimization_level = _LEVELS[level]
    with temporary.folder("windlass-optimize-") as folder:
        path = folder / external_data.MODEL_FILE
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # noqa: BLE001 - onnxruntime raises bare exceptions of several kinds
            raise errors.Unsupported(f"onnxruntime refuses the graph: {e}") from None
        made = onnx.ModelProto.FromString(path.read_bytes())
    # What the graph is called by from outside stays as it was, down to the names of free dimensions.
    for side in ("input", "output"):
        made.graph.ClearField(side)
        getattr(made.graph, side).extend(getattr(model.graph, side))
    _prune_domains(made)
    return made


def health(model: onnx.ModelProto) -> Health:
    """How many operators run on integers once it is loaded, and how many pairs do nothing but lose accuracy."""
    loaded = optimized(model, "extended")
    readers = consumers(loaded)
    integer = sum(node.op_type.startswith(_INTEGER_KINDS) for node in loaded.graph.node)
    pairs = [
        node
        for node in loaded.graph.node
        if node.op_type == "QuantizeLinear"
        and all(reader.op_type == "DequantizeLinear" for reader in readers.get(node.output[0], []))
    ]
    return Health(integer, len(pairs))


def made(
    form: forms.Form,
    model: onnx.ModelProto,
    step: forms.Step,
    *,
    expected: signature.Signature,
    precision: str | None = None,
    left: Sequence[forms.Left] = (),
    notes: Sequence[str] = (),
) -> forms.Form:
    """The form after one more step: files in the one spelling of a package, checked by a package's rules.

    `Unsupported` if it breaks one (a size burned in, another signature). The live network is not behind it any more.
    """
    _prune(model)
    try:
        files = onnx_bytes.canonical({external_data.MODEL_FILE: model.SerializeToString()})
        external_data.check(files, packaged=True)
        onnx_graph.check(bytes(files[external_data.MODEL_FILE]), expected)
    except (errors.GateRefused, errors.CorruptPackage, errors.CaptureFailed) as e:
        raise errors.Unsupported(f"what '{step.technique}' made breaks a rule of packages: {e}") from None
    return msgspec.structs.replace(
        form,
        files={name: bytes(data) for name, data in files.items()},
        precision=precision or form.precision,
        steps=(*form.steps, step),
        network=None,
        left=(*form.left, *left),
        notes=(*form.notes, *notes),
    )


def weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The graph's constants by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """By value: the nodes of the graph that read it. One that a subgraph reads counts for the node that holds it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(reads(node)):
            found.setdefault(name, []).append(node)
    return found


def reads(node: onnx.NodeProto) -> list[str]:
    """The values that a node or its subgraphs read."""
    found = [name for name in node.input if name]
    for attribute_ in node.attribute:
        for graph in (attribute_.g, *attribute_.graphs):
            found += itertools.chain.from_iterable(reads(inner) for inner in graph.node)
    return found


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """By value: its number of dimensions, as far as ONNX's own rules tell."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.CopyFrom(onnx.GraphProto(name="light", input=model.graph.input, output=model.graph.output))
    light.graph.node.extend(model.graph.node)
    # Shapes follow from the small constants and from the sizes of the large ones.
    for constant in model.graph.initializer:
        if int(np.prod(constant.dims)) <= _SMALL:
            light.graph.initializer.append(constant)
        else:
            told = onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            light.graph.input.append(told)
    known = onnx.shape_inference.infer_shapes(light).graph
    values = (*known.value_info, *known.input, *known.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default where it is not given."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def is_plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm only multiplies and adds: nothing is scaled, and what it multiplies is not transposed."""
    return (attribute(gemm, "alpha", 1.0), attribute(gemm, "beta", 1.0), attribute(gemm, "transA", 0)) == (1.0, 1.0, 0)


class Writer:
    """Adds constants and nodes to a graph, under names that it does not have yet.

    The same names for the same questions in the same order.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._taken = {name for node in model.graph.node for name in (node.name, *node.input, *node.output)}
        values = (*model.graph.input, *model.graph.output, *model.graph.initializer)
        self._taken |= {value.name for value in values}

    def name(self, wanted: str) -> str:
        """The name wanted, with a number behind it if it is taken."""
        options = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(1)))
        name = next(option for option in options if option not in self._taken)
        self._taken.add(name)
        return name

    def constant(self, wanted: str, value: tensor.Array) -> str:
        """A new constant; its name."""
        # numpy makes one dimension of none.
        plain = np.ascontiguousarray(value).reshape(value.shape)
        made = onnx.numpy_helper.from_array(plain, self.name(wanted))
        self._model.graph.initializer.append(made)
        return str(made.name)

    def node(self, operator: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> onnx.NodeProto:
        """A new node, not yet in the graph; one of another domain is written `domain.Operator`."""
        domain, _, kind_ = operator.rpartition(".")
        if domain and all(one.domain != domain for one in self._model.opset_import):
            self._model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
        return onnx.helper.make_node(kind_, list(inputs), [output], self.name(name), domain=domain, **attributes)


def _prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    made = optimized(model, "basic")
    writer = Writer(made)
    seen: set[str] = set()
    for number, node in enumerate(made.graph.node):
        if not node.name or node.name in seen:
            node.name = writer.name(f"{node.op_type}_{number}")
        seen.add(node.name)
    _name_pooling(made)
    _split_sums(made)
    return made


def _split_sums(model: onnx.ModelProto) -> None:
    """onnxruntime folds any sum behind a product into a Gemm; one that is no constant bias has no integer kernel."""
    real, writer = weights(model), Writer(model)
    written: list[onnx.NodeProto] = []
    for node in model.graph.node:
        written.append(node)
        folded = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] and node.input[2] not in real
        if not folded or node.input[1] not in real or not is_plain(node):
            continue
        if attribute(node, "transB", 0):
            turned = onnx.numpy_helper.to_array(real[node.input[1]]).T
            node.input[1] = writer.constant(f"{node.input[1]}/turned", turned)
        product = writer.name(f"{node.output[0]}/product")
        written.append(writer.node("Add", [product, node.input[2]], node.output[0], f"{node.name}/add"))
        node.output[0], node.op_type = product, "MatMul"
        del node.input[2:]
        del node.attribute[:]
    del model.graph.node[:]
    model.graph.node.extend(written)


def _name_pooling(model: onnx.ModelProto) -> None:
    """Exporters write global pooling as the mean over a picture; as what it is, onnxruntime runs it on integers."""
    real = weights(model)
    found = ranks(model) if any(node.op_type == "ReduceMean" for node in model.graph.node) else {}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or found.get(node.input[0]) != 4 or not attribute(node, "keepdims", 1):
            continue
        if len(node.input) > 1:
            axes = onnx.numpy_helper.to_array(real[node.input[1]]).tolist() if node.input[1] in real else []
        else:
            axes = attribute(node, "axes", [])
        if sorted(axis % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _prune(model: onnx.ModelProto) -> None:
    """Drop the constants and the notes on values that nothing refers to any more."""
    used = {name for node in model.graph.node for name in reads(node)} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    # Shapes of inner values are inferred again by whoever loads it; stale ones would be refused.
    del model.graph.value_info[:]
    _prune_domains(model)


def _prune_domains(model: onnx.ModelProto) -> None:
    used = {node.domain for node in _nodes(model.graph)}
    kept = [one for one in model.opset_import if one.domain in used or one.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute_ in node.attribute:
            for inner in (attribute_.g, *attribute_.graphs):
                yield from _nodes(inner)
