"""The Open Inference Protocol over gRPC: what Triton's client classes write is read, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as client

from windlass import errors
from windlass.protocols import base, oip_grpc, oip_grpc_repeated
from windlass.protocols.pb import wire
from windlass.types import directory, inference, manifest, tensor, tensor_codec

HEAD = base.Head("POST", "/inference.GRPCInferenceService/ModelInfer", "", {})
Make = Callable[..., directory.ModelView]
PLACES = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    oip_grpc_repeated._known.clear()
    yield
    oip_grpc_repeated._known.clear()


def decode(message: bytes, view: directory.ModelView) -> inference.InferRequest:
    request = oip_grpc.decode(HEAD, {}, message, view)
    assert isinstance(request, inference.InferRequest)
    return request


def request_of(tensors: dict[str, tensor.Array], *, typed: bool = False, **fields: Any) -> client.ModelInferRequest:
    """A request as Triton's client writes it."""
    message = client.ModelInferRequest(model_name="mlp", **fields)
    for name, array in tensors.items():
        datatype = tensor.datatype(array)
        one = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            one.contents.SetInParent()
            getattr(one.contents, PLACES[datatype]).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(tensor_codec.to_raw(array))
    return message


def rows(value: float = 0.0, count: int = 1) -> dict[str, tensor.Array]:
    return {"x": np.full((count, 30), value, np.float32)}


@st.composite
def arrays(draw: st.DrawFn) -> tensor.Array:
    datatype = draw(st.sampled_from(sorted(PLACES)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    count = shape[0] * shape[1]
    if datatype == "BYTES":
        array = np.empty(count, object)
        array[:] = draw(st.lists(st.binary(max_size=8), min_size=count, max_size=count))
        return array.reshape(shape)
    raw = draw(st.binary(min_size=8 * count, max_size=8 * count))
    dtype = tensor.dtype(datatype)
    if datatype == "BOOL":
        return (np.frombuffer(raw, np.uint8)[:count] > 127).reshape(shape)
    return np.frombuffer(raw[: count * dtype.itemsize], dtype).reshape(shape)


def same(one: tensor.Array, other: tensor.Array) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and tensor_codec.to_raw(one) == tensor_codec.to_raw(other)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(arrays(), min_size=1, max_size=3), st.booleans(), st.text(max_size=8), st.data())
def test_tensors_of_every_kind_there_and_back(
    make_view: Make, given_arrays: list[tensor.Array], typed: bool, name: str, data: st.DataObject
) -> None:
    limits = manifest.Limits(max_batch=3, max_elements=1_000)
    count = len(given_arrays[0])
    tensors = {f"i{k}": array[:count] for k, array in enumerate(given_arrays) if len(array) >= count}
    if typed:
        # Values of FP32 are Python floats on their way, which leaves a NaN a NaN but not its bits.
        tensors = {
            key: np.nan_to_num(array, nan=0.5) if array.dtype.kind == "f" else array for key, array in tensors.items()
        }
    specs = tuple((key, tensor.datatype(array), ("batch", array.shape[1])) for key, array in tensors.items())
    view = make_view(specs, tuple((f"o{key}", kind, shape) for key, kind, shape in specs), limits=limits)
    message = request_of(tensors, typed=typed, id=name).SerializeToString()
    for _ in range(2):
        request = decode(message, view)
        assert (request.id, request.rows) == (name, count)
        assert all(same(request.inputs[key], array) for key, array in tensors.items())
    outputs = {f"o{key}": array for key, array in tensors.items()}
    told = client.ModelInferResponse.FromString(
        oip_grpc.encode(HEAD, request, inference.InferResponse(outputs, "5"), view).body
    )
    assert (told.model_name, told.model_version, told.id) == ("mlp", "5", name)
    assert len(told.raw_output_contents) == len(told.outputs) == len(outputs)
    for one, raw in zip(told.outputs, told.raw_output_contents, strict=True):
        array = tensor_codec.from_raw(one.datatype, tuple(one.shape), raw, name=one.name)
        assert same(array, outputs[one.name])


def test_a_request_that_comes_again_is_known_by_its_bytes(make_view: Make) -> None:
    view = make_view()
    for number in range(5):
        message = request_of(rows(number, 2), id=f"id-{number}", model_version="1").SerializeToString()
        request = decode(message, view)
        assert (request.id, request.rows, request.inputs["x"][1, 29]) == (f"id-{number}", 2, number)
        assert oip_grpc.peek(message) == ("mlp", "1")
        assert np.shares_memory(request.inputs["x"], np.frombuffer(message, np.uint8))
    assert len(oip_grpc_repeated._known) == 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.promise("P-36c")
@pytest.mark.threat("V8")
def test_what_is_remembered_never_changes_what_a_message_means(make_view: Make, data: st.DataObject) -> None:
    """A known message with any change in it is read, or refused, as it would be by a server that knows none."""
    view = make_view((("a", "FP32", ("batch", 2)), ("b", "INT16", ("batch", 1))))
    tensors = {"a": np.ones((2, 2), np.float32), "b": np.zeros((2, 1), np.int16)}
    message = bytearray(request_of(tensors, id="an-id", model_version="1").SerializeToString())
    decode(bytes(message), view)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        kind = data.draw(st.sampled_from(("flip", "insert", "drop", "double")))
        if kind == "flip":
            message[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            message[place:place] = data.draw(st.binary(max_size=4))
        elif kind == "drop" and len(message) > 1:
            del message[place]
        else:
            end = data.draw(st.integers(place, len(message)))
            message[place:place] = message[place:end]
    known = outcome(bytes(message), view)
    oip_grpc_repeated._known.clear()
    assert outcome(bytes(message), view) == known


def outcome(message: bytes, view: directory.ModelView) -> Any:
    try:
        model = oip_grpc.peek(message)
        request = decode(message, view)
    except (errors.InvalidInput, errors.Unsupported) as e:
        return type(e)
    held = {name: tensor_codec.to_raw(array) for name, array in request.inputs.items()}
    return model, request.id, request.rows, request.outputs, request.timeout_s, held


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@pytest.mark.promise("P-36c")
def test_no_bytes_are_a_fault_of_ours(make_view: Make, message: bytes) -> None:
    for attempt in (oip_grpc.peek, lambda m: decode(m, make_view())):
        try:
            attempt(message)
        except (errors.InvalidInput, errors.Unsupported):
            continue
    told = client.ModelStreamInferResponse.FromString(oip_grpc.fail(message, errors.InvalidInput("no")))
    assert told.error_message == "no"


@pytest.mark.threat("V8")
def test_a_message_of_countless_fields_is_refused_before_it_is_parsed(make_view: Make) -> None:
    view = make_view()
    for field in (b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00"):
        with pytest.raises(errors.InvalidInput, match=f"more than {wire.MOST_FIELDS} fields"):
            decode(field * 100_000, view)
        with pytest.raises(errors.InvalidInput, match=f"more than {wire.MOST_FIELDS} fields"):
            oip_grpc.peek(field * 100_000)


@pytest.mark.promise("P-36d")
@pytest.mark.threat("V8")
def test_what_protobuf_would_blow_up_is_refused_before_it_is_parsed(make_view: Make) -> None:
    named = wire.field(1, b"mlp")
    for number, part, sentence in (
        (5, wire.field(4, b"") * 100_000, f"more than {wire.MOST_FIELDS} fields"),
        (6, wire.field(2, b"") * 100_000, f"more than {wire.MOST_FIELDS} fields"),
        (5, b"\x18\x01" * 100_000, f"more than {wire.MOST_FIELDS} fields"),
        (5, wire.field(3, b"\x01" * 100_000), "more than 32 dimensions"),
        (5, wire.field(3, b"\x01" * 33), "33 dimensions"),
    ):
        with pytest.raises(errors.InvalidInput, match=sentence):
            decode(named + wire.field(number, part), make_view())


@pytest.mark.threat("V4")
def test_a_message_means_the_same_model_to_whoever_reads_it(make_view: Make) -> None:
    """protobuf takes the last of a field that comes twice, and the door the first."""
    view = make_view()
    usual = request_of(rows()).SerializeToString()
    version = wire.field(2, b"1")
    assert decode(usual.replace(b"mlp", b"mlp" + version), view).model == "mlp"
    for odd in (
        usual + wire.field(1, b"other"),
        usual + version,
        wire.field(1, b"mlp") + wire.field(3, b"i") + version,
    ):
        with pytest.raises(errors.InvalidInput, match="do not stand first"):
            decode(odd, view)


def test_the_model_is_found_wherever_its_name_stands(make_view: Make) -> None:
    message = request_of(rows(), model_version="1")
    name = client.ModelInferRequest(model_name="other", model_version="2").SerializeToString()
    plain = message.SerializeToString()
    assert oip_grpc.peek(plain) == ("mlp", "1")
    assert oip_grpc.peek(request_of(rows()).SerializeToString()) == ("mlp", "")
    nameless = client.ModelInferRequest()
    nameless.CopyFrom(message)
    nameless.model_name = nameless.model_version = ""
    assert oip_grpc.peek(nameless.SerializeToString() + name) == ("other", "2")
    assert oip_grpc.peek(b"") == ("", "")
    long = request_of(rows(), id="i")
    long.model_name = "m" * 200
    assert oip_grpc.peek(long.SerializeToString()) == ("m" * 200, "")
    assert decode(nameless.SerializeToString() + name, make_view()).inputs["x"].shape == (1, 30)


def change(message: client.ModelInferRequest, **fields: Any) -> client.ModelInferRequest:
    for name, value in fields.items():
        setattr(message.inputs[0], name, value)
    return message


def refused() -> list[tuple[client.ModelInferRequest, str]]:
    both, typed = request_of(rows()), request_of(rows(), typed=True)
    both.inputs[0].contents.fp32_contents.append(1)
    wrong_place = request_of(rows())
    wrong_place.ClearField("raw_input_contents")
    wrong_place.inputs[0].contents.fp64_contents.extend([0.0] * 30)
    bare = request_of(rows())
    bare.ClearField("raw_input_contents")
    twice = request_of(rows())
    twice.MergeFrom(request_of(rows()))
    region, empty, count = request_of(rows()), request_of(rows()), request_of(rows())
    region.inputs[0].parameters["shared_memory_region"].string_param = "r"
    empty.parameters["a"].SetInParent()
    count.raw_input_contents.append(b"")
    few = request_of(rows(), typed=True)
    del few.inputs[0].contents.fp32_contents[5:]
    return [
        (both, "tensor 'x' has both contents and raw_input_contents"),
        (wrong_place, "tensor 'x' is FP32: its values go to fp32_contents, not fp64_contents"),
        (bare, "tensor 'x' has no data"),
        (few, r"tensor 'x' has 5 values: shape \[1, 30\] needs 30"),
        (twice, "an input is given twice"),
        (region, "shared memory regions are not supported"),
        (empty, "the parameter 'a' has no value"),
        (count, "the request has 2 raw_input_contents for 1 inputs"),
        (change(request_of(rows()), datatype="FP128"), "datatype 'FP128' is not one of"),
        (change(typed, datatype="FP16"), "FP16, which has no place in contents"),
        (change(request_of(rows()), name="z"), "unexpected input 'z': the model's inputs are 'x'"),
        (request_of({"x": np.zeros((1, 4), np.float32)}), r"input 'x' has shape \[1, 4\]: the model expects"),
        (request_of(rows(), id="i" * 2_000), "id is longer than 1024"),
        (client.ModelInferRequest(model_name="mlp"), "missing input 'x'"),
    ]


@pytest.mark.parametrize(("message", "sentence"), [pytest.param(*case, id=case[1][:30]) for case in refused()])
def test_what_is_wrong_is_told_as_over_http(make_view: Make, message: client.ModelInferRequest, sentence: str) -> None:
    with pytest.raises((errors.InvalidInput, errors.Unsupported), match=sentence):
        decode(message.SerializeToString(), make_view())


def test_values_that_a_datatype_cannot_hold_are_refused(make_view: Make) -> None:
    message = client.ModelInferRequest(model_name="mlp")
    one = message.inputs.add(name="x", datatype="INT8", shape=[1, 2])
    one.contents.int_contents.extend([1, 300])
    with pytest.raises(errors.InvalidInput, match="at position 1 that INT8 cannot hold"):
        decode(message.SerializeToString(), make_view((("x", "INT8", ("batch", 2)),)))


def test_many_values_are_read_as_few_are(make_view: Make) -> None:
    view = make_view((("x", "INT8", ("batch", "n")),), (("y", "INT8", ("batch", "n")),))
    values = np.arange(70_000).astype(np.int8).reshape(1, -1)
    message = request_of({"x": values}, typed=True)
    assert same(decode(message.SerializeToString(), view).inputs["x"], values)
    message.inputs[0].contents.int_contents[69_999] = 128
    with pytest.raises(errors.InvalidInput, match="has a value that INT8 cannot hold"):
        decode(message.SerializeToString(), view)


def test_parameters_mean_what_they_mean_over_http(make_view: Make) -> None:
    message = request_of(rows(), id="7")
    message.parameters["timeout"].int64_param = 5_000
    message.parameters["priority"].uint64_param = 2
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.outputs.add(name="y").parameters["classification"].int64_param = 1
    view = make_view(labels=("cat", "dog"))
    request = decode(message.SerializeToString(), view)
    assert (request.timeout_s, request.priority, request.outputs) == (0.005, inference.BATCH, ("y",))
    answer = inference.InferResponse({"y": np.array([[0.25, 0.5]], np.float32)}, "1")
    told = client.ModelInferResponse.FromString(oip_grpc.encode(HEAD, request, answer, view).body)
    assert (told.id, told.outputs[0].datatype, list(told.outputs[0].shape)) == ("7", "BYTES", [1, 1])
    assert told.raw_output_contents[0][4:] == b"0.5:1:dog"
    message.parameters["sequence_id"].int64_param = 3
    with pytest.raises(errors.Unsupported, match="sequences are not supported"):
        decode(message.SerializeToString(), view)


def test_a_contract_that_looks_at_values_does_so_when_a_request_comes_again(make_view: Make) -> None:
    view = make_view()
    view.contract.refuses_nan = view.contract._checks[0].refuses_nan = True
    decode(request_of(rows()).SerializeToString(), view)
    assert oip_grpc_repeated._known
    with pytest.raises(errors.InvalidInput, match="missing values"):
        decode(request_of(rows(np.nan)).SerializeToString(), view)


def test_a_stream_answers_errors_in_its_messages(make_view: Make) -> None:
    message = request_of(rows(), id="a").SerializeToString()
    told = client.ModelStreamInferResponse.FromString(oip_grpc.fail(message, errors.NotFound("none here")))
    assert (told.error_message, told.infer_response.id) == ("none here", "a")
    internal = oip_grpc.fail(b"\xff", errors.InternalError("/srv/secret"))
    assert b"secret" not in internal
