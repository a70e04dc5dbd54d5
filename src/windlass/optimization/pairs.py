"""Static int8 written into a graph: quantize/dequantize pairs on activations, integer weights and biases.

Called by the techniques that quantize statically, with ranges measured or learned. onnxruntime absorbs the pairs into
integer operators when it loads the graph, so they stand only where it can. Must never quantize what it has no integer
kernel for: that would be slower than before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np
import onnx

from windlass import errors
from windlass.optimization import calibration, graphs, integers
from windlass.optimization import form as forms
from windlass.types import tensor

# DequantizeLinear knows channels from here on.
MIN_OPSET = 13
PRODUCTS = ("Conv", "Gemm", "MatMul")
# What only moves numbers: its output has the scale of its input.
_MOVERS = frozenset(("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"))
# What onnxruntime computes on integers where all it reads and gives is quantized.
_RIDERS = _MOVERS | frozenset(("Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"))
# Absorbed by the quantization that follows: it saturates at the same place.
_CLIPS = frozenset(("Relu", "Clip"))
_HEAVY = frozenset(("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention"))
_LARGE_TABLE = 1 << 16


class Settings(msgspec.Struct, frozen=True):
    """How numbers become integers; `reduced` keeps weights to 7 bits."""

    activations: integers.Type = "QUInt8"
    weights: integers.Type = "QInt8"
    per_channel: bool = True
    reduced: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What of a graph would be quantized, by the names of nodes, and by value what each has its range from."""

    products: tuple[str, ...]
    tables: tuple[str, ...]
    riders: tuple[str, ...]
    values: dict[str, str]
    left: tuple[forms.Left, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """What may be excluded."""
        return (*self.products, *self.tables)

    @property
    def ranges(self) -> tuple[str, ...]:
        """The values whose ranges are needed."""
        return tuple(dict.fromkeys(self.values.values()))


def unfit(form: forms.Form, wanted: Collection[str]) -> str:
    """Why a form cannot be quantized: no ONNX, quantized already, none of the operators wanted; empty where it can."""
    if why := graphs.refusal(form):
        return why
    opset, found = graphs.census(form)
    if graphs.is_quantized(found):
        return "the graph is quantized already."
    if not any(name in found for name in wanted):
        return f"the graph has none of the operators that it works on ({', '.join(wanted)})."
    if opset < MIN_OPSET:
        return f"the graph is written in opset {opset}: quantized channels need {MIN_OPSET} or later."
    return ""


def require(nodes: Collection[str], exclude: Collection[str], technique: str) -> None:
    """`Unsupported` unless a node is left that would be quantized."""
    if set(nodes) <= set(exclude):
        why = "every node is excluded." if nodes else "none of its nodes can be quantized."
        raise errors.Unsupported(f"'{technique}' does not apply: {why}")


def plan(model: onnx.ModelProto, exclude: Collection[str] = ()) -> Plan:
    """What to quantize of a prepared graph. A smaller plan needs no range that a larger one does not need."""
    real = graphs.weights(model)
    products: list[onnx.NodeProto] = []
    tables: list[onnx.NodeProto] = []
    left = []
    for node in model.graph.node:
        why = refusal(node, real)
        if why is None:
            continue
        if why or node.name in exclude:
            left.append(forms.Left(node.name, graphs.kind(node), why or "it was excluded."))
        else:
            (tables if node.op_type == "Gather" else products).append(node)
    readers = graphs.consumers(model)
    outputs = {value.name for value in model.graph.output}
    values: dict[str, str] = {}
    for node in products:
        values.setdefault(node.input[0], node.input[0])
        if node.op_type == "Conv":
            name = _after_clip(node.output[0], readers, outputs)
            values.setdefault(name, name)
    ridden = _ride(model, values, readers, outputs, {node.name for node in products})
    names = [[node.name for node in group] for group in (products, tables, ridden)]
    return Plan(tuple(names[0]), tuple(names[1]), tuple(names[2]), values, tuple(left))


def quantize(model: onnx.ModelProto, plan: Plan, ranges: calibration.Ranges, settings: Settings) -> onnx.ModelProto:
    """The graph with the plan's nodes on integers. `ranges` gives [low, high] for each of `plan.ranges`.

    Changes and gives back the model it was given.
    """
    _part(model, plan)
    return _Writing(model, plan, ranges, settings).write()


def _part(model: onnx.ModelProto, plan: Plan) -> None:
    """Write the bias of a Gemm as a sum of its own where a Relu would be fused with it.

    Fused, it computes on floats and dequantizes its weights at each run; a bare Gemm takes integers and gives floats.
    """
    readers, outputs = graphs.consumers(model), {value.name for value in model.graph.output}
    writer, written = graphs.Writer(model), []
    for node in model.graph.node:
        written.append(node)
        summed = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
        if not summed or node.name not in plan.products or node.output[0] in outputs:
            continue
        following = [reader.op_type for reader in readers.get(node.output[0], [])]
        if following == ["Relu"] and _after_clip(node.output[0], readers, outputs) not in plan.values:
            product = writer.name(f"{node.output[0]}/product")
            written.append(writer.node("Add", [product, node.input[2]], node.output[0], f"{node.name}/add"))
            node.output[0] = product
            del node.input[2:]
    del model.graph.node[:]
    model.graph.node.extend(written)


def refusal(node: onnx.NodeProto, real: Mapping[str, onnx.TensorProto]) -> str | None:
    """Why a node that is worth quantizing cannot be; empty where it can, None where it is not worth a word."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _HEAVY:
        return "onnxruntime has no integer kernel for it." if node.op_type in _HEAVY else None
    if node.op_type == "Gather":
        table = real.get(node.input[0])
        large = table is not None and len(table.dims) == 2 and np.prod(table.dims) >= _LARGE_TABLE
        usable = large and table is not None and table.data_type == onnx.TensorProto.FLOAT
        return "" if usable and graphs.attribute(node, "axis", 0) == 0 else None
    if node.op_type not in PRODUCTS:
        return None
    weight = real.get(node.input[1])
    if weight is None:
        return "its weights are computed, not constant."
    if weight.data_type != onnx.TensorProto.FLOAT:
        return "its numbers are not 32-bit floats."
    if len(node.input) > 2 and node.input[2] and node.input[2] not in real:
        return "its bias is computed, not constant."
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return f"its weights have {len(weight.dims)} dimensions."
    if node.op_type == "Gemm":
        if not graphs.is_plain(node):
            return "it scales or transposes what it multiplies."
        if len(node.input) > 2 and list(real[node.input[2]].dims) != [_outputs(node, weight)]:
            return "its bias is not one number for each output."
    return ""


def _outputs(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    return int(weight.dims[channels(node)])


def channels(node: onnx.NodeProto) -> int:
    """The axis of the output channels in the weights of a product."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and graphs.attribute(node, "transB", 0) else 1


def _after_clip(name: str, readers: dict[str, list[onnx.NodeProto]], outputs: Collection[str]) -> str:
    """The value to quantize instead of this one: what ReLU or a clip makes of it, where nothing else reads it."""
    following = readers.get(name, [])
    if name not in outputs and len(following) == 1 and following[0].op_type in _CLIPS and following[0].input[0] == name:
        return str(following[0].output[0])
    return name


def _ride(
    model: onnx.ModelProto,
    values: dict[str, str],
    readers: dict[str, list[onnx.NodeProto]],
    outputs: Collection[str],
    products: Collection[str],
) -> list[onnx.NodeProto]:
    """Nodes between products that can stay on integers, in the order of the graph; adds their outputs to `values`."""
    reached = dict(values)
    found = []
    for node in model.graph.node:
        # The further inputs of a mover are shapes.
        read = [name for at, name in enumerate(node.input) if at == 0 or node.op_type not in _MOVERS]
        if node.op_type not in _RIDERS or node.domain not in ("", "ai.onnx") or any(n not in reached for n in read):
            continue
        name = _after_clip(node.output[0], readers, outputs)
        reached.setdefault(name, reached[read[0]] if node.op_type in _MOVERS and name == node.output[0] else name)
        found.append(node)
    # Only on the way to a product: elsewhere, staying on integers loses accuracy and gains nothing.
    kept: list[onnx.NodeProto] = []
    names = set(products)
    for node in reversed(found):
        name = _after_clip(node.output[0], readers, outputs)
        if name not in outputs and any(reader.name in names for reader in readers.get(name, [])):
            kept.append(node)
            names.add(node.name)
    for node in reversed(kept):
        name = _after_clip(node.output[0], readers, outputs)
        values.setdefault(name, reached[name])
    return kept[::-1]


class _Writing:
    """One rewriting of a graph: new constants and nodes, in an order in which each follows what it reads."""

    def __init__(self, model: onnx.ModelProto, plan: Plan, ranges: calibration.Ranges, settings: Settings) -> None:
        self._model = model
        self._plan = plan
        self._settings = settings
        self._writer = graphs.Writer(model)
        self._real = graphs.weights(model)
        self._points = {
            name: integers.point(*ranges[source], settings.activations) for name, source in plan.values.items()
        }
        self._dequantized: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        graph = self._model.graph
        products, tables, riders = (set(names) for names in (self._plan.products, self._plan.tables, self._plan.riders))
        integer = products | riders
        # What an integer convolution gives can only be read dequantized; other values are also there as they were.
        forced = self._forced(integer)
        written: list[onnx.NodeProto] = []
        for value in graph.input:
            written += self._pair(value.name, value.name)
        for node in graph.node:
            for at, name in enumerate(node.input):
                if name in self._dequantized and (node.name in integer or name in forced):
                    node.input[at] = self._dequantized[name]
            if node.name in products:
                written += self._product(node)
            made = [self._renamed(node, at, forced) for at in range(len(node.output))]
            written.append(node)
            if node.name in tables:
                written.append(table(self._writer, node, onnx.numpy_helper.to_array(self._real[node.input[0]])))
            for name, now in made:
                written += self._pair(name, now)
        del graph.node[:]
        graph.node.extend(written)
        return self._model

    def _forced(self, integer: Collection[str]) -> set[str]:
        found: set[str] = set()
        after_clip = {}
        for node in self._model.graph.node:
            if node.op_type in _CLIPS:
                after_clip[node.input[0]] = node.output[0]
            if node.name in integer and node.op_type not in ("Gemm", "MatMul"):
                found.add(node.output[0])
        found |= {after_clip[name] for name in found if name in after_clip and name not in self._plan.values}
        return found & set(self._plan.values)

    def _renamed(self, node: onnx.NodeProto, at: int, forced: Collection[str]) -> tuple[str, str]:
        """An output of the whole graph that is quantized keeps its name behind the pair."""
        name = node.output[at]
        if name in forced and name in {value.name for value in self._model.graph.output}:
            node.output[at] = self._writer.name(f"{name}/float")
        return name, node.output[at]

    def _pair(self, name: str, now: str) -> list[onnx.NodeProto]:
        """Quantize and dequantize the value `name`, which is called `now` where it is made."""
        if name not in self._points or name in self._dequantized:
            return []
        scale, zero = self._scale(name, self._points[name])
        quantized = self._writer.name(f"{name}/quantized")
        dequantized = name if now != name else self._writer.name(f"{name}/dequantized")
        self._dequantized[name] = dequantized
        node = self._writer.node
        return [
            node("QuantizeLinear", [now, scale, zero], quantized, f"{name}/quantize"),
            node("DequantizeLinear", [quantized, scale, zero], dequantized, f"{name}/dequantize"),
        ]

    def _scale(self, name: str, point: integers.Point) -> tuple[str, str]:
        kind = np.uint8 if self._settings.activations == "QUInt8" else np.int8
        return self._writer.constant(f"{name}/scale", np.array(point.scale, np.float32)), self._writer.constant(
            f"{name}/zero", np.array(point.zero, kind)
        )

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Integer weights and bias for a product, each behind its DequantizeLinear."""
        settings = self._settings
        real = onnx.numpy_helper.to_array(self._real[node.input[1]])
        axis = channels(node)
        source = next(name for name, now in self._dequantized.items() if now == node.input[0])
        input_scale = self._points[source].scale
        biases = (
            onnx.numpy_helper.to_array(self._real[node.input[2]]) if len(node.input) > 2 and node.input[2] else None
        )
        least = None if biases is None else integers.least_scales(biases, input_scale)
        if least is not None and not settings.per_channel:
            least = least.max(initial=0.0)
        made = integers.weights(
            real, axis if settings.per_channel else None, settings.weights, reduced=settings.reduced, least=least
        )
        written = [self._dequantize(node, 1, made.values, made.scales, made.zero, axis)]
        if biases is not None:
            scales = (made.scales * np.float32(input_scale)).astype(np.float32)
            written.append(self._dequantize(node, 2, integers.bias(biases, scales), scales, 0, 0))
        return written

    def _dequantize(
        self, node: onnx.NodeProto, at: int, values: tensor.Array, scales: tensor.Array, zero: int, axis: int
    ) -> onnx.NodeProto:
        base = f"{node.name}/{'bias' if at == 2 else 'weights'}"
        inputs = [
            self._writer.constant(f"{base}/quantized", values),
            self._writer.constant(f"{base}/scale", scales),
        ]
        # Biases have no zero point: none is zero.
        if at != 2:
            inputs.append(self._writer.constant(f"{base}/zero", np.full(scales.shape, zero, values.dtype)))
        node.input[at] = self._writer.name(base)
        more = {"axis": axis} if scales.ndim else {}
        return self._writer.node("DequantizeLinear", inputs, node.input[at], f"{base}/dequantize", **more)


def table(writer: graphs.Writer, node: onnx.NodeProto, real: tensor.Array) -> onnx.NodeProto:
    """Make a Gather take rows from an integer table: the node that dequantizes them, to be written behind it.

    Each column has a scale, as the rows are many.
    """
    made = integers.weights(real, 1, "QInt8", reduced=False)
    inputs = [
        writer.name(f"{node.output[0]}/quantized"),
        writer.constant(f"{node.name}/table/scale", made.scales),
        writer.constant(f"{node.name}/table/zero", np.zeros(made.scales.shape, np.int8)),
    ]
    following = writer.node("DequantizeLinear", inputs, node.output[0], f"{node.name}/dequantize", axis=-1)
    node.input[0] = writer.constant(f"{node.name}/table/quantized", made.values)
    node.output[0] = inputs[0]
    return following
