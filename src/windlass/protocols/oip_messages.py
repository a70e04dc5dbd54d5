"""The Open Inference Protocol's request document, its parameters, and what they ask of us.

Called by the protocol's JSON and binary forms. Parameters are open, as the protocol says: unknown ones are taken and
left alone; those that we know must be of their type. Must never take a parameter that names memory or a place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from windlass import errors
from windlass.protocols import json_tensors
from windlass.types import contract, directory, inference, tensor

Parameters: TypeAlias = dict[str, bool | int | float | str]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Shape = Annotated[tuple[_Size, ...], msgspec.Meta(max_length=32)]
_NONE: Parameters = {}
Data = TypeVar("Data")


class InputTensor(msgspec.Struct, Generic[Data], frozen=True, forbid_unknown_fields=True, gc=False):
    """One input: its data is here (read at once, or left raw), or follows the document as bytes."""

    name: str
    datatype: str
    shape: _Shape
    data: Data | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class OutputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One output asked for."""

    name: str
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class InferDocument(msgspec.Struct, Generic[Data], frozen=True, forbid_unknown_fields=True, gc=False):
    """The request. An unknown field is refused: a misspelt `outputs` would silently mean all of them.

    Some clients repeat the model's name and version, which the path has; they must then be the same.
    """

    inputs: list[InputTensor[Data]]
    id: Annotated[str, msgspec.Meta(max_length=1024)] | msgspec.UnsetType = msgspec.UNSET
    outputs: list[OutputTensor] | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    model_name: str | msgspec.UnsetType = msgspec.UNSET
    model_version: str | msgspec.UnsetType = msgspec.UNSET


class Wanted(msgspec.Struct, frozen=True):
    """How to answer, where that is not the usual plain JSON.

    `binary` names the outputs to send as bytes; `classes` gives k for outputs wanted as their k highest classes.
    """

    binary: frozenset[str] = frozenset()
    classes: dict[str, int] = {}


PLAIN = Wanted()
RAW = msgspec.json.Decoder(InferDocument[msgspec.Raw])


@functools.lru_cache(maxsize=256)
def reader(checked: contract.Contract) -> Callable[[bytes], InferDocument[Any]] | None:
    """What reads a request and its numbers in one pass, if all inputs of the model hold one kind of value."""
    specs = checked.signature.inputs
    depth = max((len(spec.shape) for spec in specs), default=0)
    kinds = {json_tensors.value_type(spec.datatype, max(depth, 1)) for spec in specs}
    if len(kinds) != 1:
        return None
    return msgspec.json.Decoder(InferDocument[kinds.pop()]).decode  # type: ignore[misc]


def key_count(document: InferDocument[Any]) -> int:
    """How many keys the document's objects have together."""
    count = 1 + _keys(document.parameters)
    count += document.id is not msgspec.UNSET
    count += document.model_name is not msgspec.UNSET
    count += document.model_version is not msgspec.UNSET
    for one in document.inputs:
        count += 3 + (one.data is not msgspec.UNSET) + _keys(one.parameters)
    if document.outputs is not msgspec.UNSET:
        count += 1
        for wanted in document.outputs:
            count += 1 + _keys(wanted.parameters)
    return count


def request(document: InferDocument[Any], inputs: tensor.Tensors, view: directory.ModelView) -> inference.InferRequest:
    """The request, once its tensors passed the contract. `InvalidInput` or `Unsupported` name the parameter."""
    rows, key = view.contract.check(inputs)
    if document.model_name is not msgspec.UNSET and document.model_name != view.name:
        raise errors.InvalidInput("the request's model_name is not the model of its path")
    if document.model_version is not msgspec.UNSET and document.model_version not in ("", view.version):
        raise errors.InvalidInput("the request's model_version is not the version of its path")
    name = document.id if document.id is not msgspec.UNSET else ""
    if document.parameters is msgspec.UNSET and document.outputs is msgspec.UNSET:
        return inference.InferRequest(view.name, inputs, rows, key, None, name)
    parameters = document.parameters if document.parameters is not msgspec.UNSET else _NONE
    refuse_sequence(parameters)
    outputs, wanted = _wanted(document, parameters, view)
    return inference.InferRequest(
        view.name,
        inputs,
        rows,
        key,
        outputs,
        name,
        timeout_s=timeout_s(parameters),
        priority=priority(parameters),
        context=wanted,
    )


def flag(parameters: Parameters, name: str) -> bool:
    """A parameter that is true or false; absent means false."""
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise errors.InvalidInput(f"the parameter '{name}' is true or false")
    return value


def number(parameters: Parameters, name: str) -> int:
    """A parameter that is a whole number of 0 or more; absent means 0."""
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise errors.InvalidInput(f"the parameter '{name}' is a whole number of 0 or more")
    return value


def timeout_s(parameters: Parameters) -> float | None:
    """`timeout` in seconds; clients send microseconds, and 0 for none."""
    microseconds = number(parameters, "timeout")
    return min(microseconds, 1 << 53) / 1e6 if microseconds else None


def priority(parameters: Parameters) -> int:
    """`priority`: 1 is the highest, 0 or none the default, higher numbers wait behind; probes stay above them all."""
    return inference.INTERACTIVE if number(parameters, "priority") <= 1 else inference.BATCH


def refuse_sequence(parameters: Parameters) -> None:
    """`Unsupported` for a request that belongs to a sequence: no model here keeps state between requests."""
    if parameters.get("sequence_id", 0) not in (0, ""):
        raise errors.Unsupported(
            "sequences are not supported: the models served here keep no state between requests",
            hint="Leave out sequence_id, sequence_start and sequence_end.",
        )


def refuse_shared_memory(parameters: Parameters) -> None:
    """`Unsupported` for tensors that lie in shared memory: callers never name memory of this machine."""
    if "shared_memory_region" in parameters:
        raise errors.Unsupported(
            "shared memory regions are not supported: callers cannot name memory of the server",
            hint="Send the tensor in the request, as JSON or as binary data.",
        )


def _wanted(
    document: InferDocument[Any], parameters: Parameters, view: directory.ModelView
) -> tuple[tuple[str, ...] | None, Wanted | None]:
    all_binary = flag(parameters, "binary_data_output")
    outputs: tuple[str, ...] | None = None
    binary = view.contract.output_names if all_binary else ()
    classes: dict[str, int] = {}
    # An empty list asks for nothing in particular, which is everything, as for other servers of this protocol.
    if document.outputs is not msgspec.UNSET and document.outputs:
        outputs = tuple(one.name for one in document.outputs)
        view.contract.check_outputs(outputs)
        as_bytes = []
        for one in document.outputs:
            if one.parameters is msgspec.UNSET:
                if all_binary:
                    as_bytes.append(one.name)
                continue
            refuse_shared_memory(one.parameters)
            if flag(one.parameters, "binary_data") if "binary_data" in one.parameters else all_binary:
                as_bytes.append(one.name)
            if top := number(one.parameters, "classification"):
                classes[one.name] = top
        binary = tuple(as_bytes)
    if not binary and not classes:
        return outputs, None
    return outputs, Wanted(frozenset(binary), classes)


def _keys(parameters: Parameters | msgspec.UnsetType) -> int:
    return 0 if parameters is msgspec.UNSET else 1 + len(parameters)
