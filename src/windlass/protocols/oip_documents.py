"""What the Open Inference Protocol says about a server and its models, as plain data, and what it does when asked.

Called by the protocol's two encodings, `oip_control` (JSON) and `oip_grpc_control` (messages). Names are those of the
protocol and of Triton's extensions, so that their clients work unmodified. Must never say that something is done which
is not: settings that cannot change are refused.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.types import directory, signature

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
LOGGING = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def server() -> dict[str, Any]:
    """The server's name, version and extensions."""
    return {"name": "windlass", "version": _own_version(), "extensions": list(EXTENSIONS)}


def model_ready(models: directory.ModelDirectory, name: str, version: str) -> bool:
    """Whether a model can answer now. `NotFound` if there is none of this name."""
    try:
        models.find(name, version)
    except errors.Unavailable:
        return False
    return True


def metadata(view: directory.ModelView) -> dict[str, Any]:
    """A model's tensors."""
    return {
        "name": view.name,
        "versions": view.versions,
        "platform": view.platform,
        "inputs": [_tensor(spec) for spec in view.signature.inputs],
        "outputs": [_tensor(spec) for spec in view.signature.outputs],
    }


def config(models: directory.ModelDirectory, name: str, version: str) -> dict[str, Any]:
    """Triton's ModelConfig as far as it applies here; what is ours besides is under `parameters`."""
    view = models.find(name, version)
    batched = view.signature.batched
    ours = models.config(view.name, version)
    return {
        "name": view.name,
        "platform": view.platform,
        "backend": view.platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [int(v) for v in view.versions if v.isdigit()]}},
        "max_batch_size": view.limits.max_batch if batched else 0,
        "input": [_config_tensor(spec, batched=batched) for spec in view.signature.inputs],
        "output": [_config_tensor(spec, batched=batched) for spec in view.signature.outputs],
        "parameters": {name: {"string_value": _plain_text(value)} for name, value in ours.items()},
    }


def statistics(models: directory.ModelDirectory, name: str, version: str) -> dict[str, Any]:
    """Cumulative counts of one model, or of all."""
    if name:
        models.find(name, version)
    return {"model_stats": [_statistic(one) for one in models.statistics(name, version)]}


def index(models: directory.ModelDirectory, *, only_ready: bool) -> list[dict[str, Any]]:
    """The lines of the repository index."""
    return [
        {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason}
        for one in models.states()
        if one.state == "READY" or not only_ready
    ]


def load(models: directory.ModelDirectory, name: str, parameters: Mapping[str, Any]) -> base.Pending:
    """Load a repository model; the answer is empty. `Unsupported` if its config or its files are given."""
    if parameters:
        raise errors.Unsupported(
            "a model is loaded as it was registered: its config and its files cannot be given in the request",
            hint="Leave out the parameters.",
        )
    return base.Pending(lambda finish: models.load(name, _finished(finish, f"failed to load '{name}'")))


def unload(models: directory.ModelDirectory, name: str) -> base.Pending:
    """Unload a repository model; the answer is empty."""
    return base.Pending(lambda finish: models.unload(name, _finished(finish, f"failed to unload '{name}'")))


def _finished(finish: base.Finish, what: str) -> Callable[[errors.WindlassError | None], None]:
    """Answer once it is done: an empty body, or the reason behind the words that clients look for."""

    def done(error: errors.WindlassError | None) -> None:
        if error is None:
            finish(base.Answer(b""))
            return
        told = error
        if not error.message.startswith(what):
            told = type(error)(f"{what}, {statuses.sentence(error)}")
        if isinstance(error, errors.Unavailable) and isinstance(told, errors.Unavailable):
            told.retry_after_s = error.retry_after_s
        finish(told)

    return done


def change_settings(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Accept what is so already (or None, which asks for the default); refuse any change."""
    for name, value in wanted.items():
        if name not in known:
            raise errors.InvalidInput(f"there is no setting '{name[:64]}': there are {', '.join(known)}")
        if value is not None and value != known[name]:
            raise errors.Unsupported(f"the setting '{name}' cannot be changed over the network")


def no_region() -> errors.NotFound:
    """The sentence for a shared memory region that somebody asks about."""
    return errors.NotFound("there is no such shared memory region: none can be registered here")


def no_shared_memory() -> errors.Unsupported:
    """The sentence for who wants to register a region."""
    return errors.Unsupported(
        "shared memory regions are not supported: callers cannot name memory of the server",
        hint="Send the tensors in the request, as JSON or as binary data.",
    )


@functools.cache
def _own_version() -> str:
    return importlib.metadata.version("windlass")


def _tensor(spec: signature.TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _sizes(spec.shape)}


def _config_tensor(spec: signature.TensorSpec, *, batched: bool) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": datatype, "dims": _sizes(spec.shape[1:] if batched else spec.shape)}


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    """Sizes as the protocol writes them: -1 is any."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _statistic(one: directory.ModelStatistics) -> dict[str, Any]:
    executed = sum(count for count, _ in one.batches.values())
    none = {"count": 0, "ns": 0}
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            "success": {"count": one.success_count, "ns": one.success_ns},
            "fail": {"count": one.fail_count, "ns": one.fail_ns},
            "queue": {"count": one.success_count, "ns": one.queue_ns},
            "compute_input": none,
            "compute_infer": {"count": executed, "ns": one.compute_infer_ns},
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": {"count": count, "ns": ns},
                "compute_output": none,
            }
            for size, (count, ns) in sorted(one.batches.items())
        ],
        "memory_usage": [],
    }
