"""The names of all metrics: one vocabulary, in one place.

Used by serving, which counts, and by its exporter, which formats. Must never hold a number or open a port.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric's name, the sentence that Prometheus shows for it, and the names of its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_MODEL = ("model", "version", "variant")
_REQUEST = (*_MODEL, "protocol")

REQUESTS = Metric("windlass_requests_total", "Requests by their one final outcome.", (*_REQUEST, "outcome"))
REJECTED = Metric("windlass_rejected_total", "Requests refused before they reached a model, by reason.", ("reason",))
ERRORS = Metric("windlass_errors_total", "Failed requests by error code.", ("code",))
LATENCY = Metric("windlass_request_seconds", "Time from a request's last byte to its answer.", _REQUEST)
IN_FLIGHT = Metric("windlass_in_flight", "Requests admitted and not yet answered.")
QUEUE = Metric("windlass_queue_seconds", "Time a request waited for its run.", _MODEL)
RUN = Metric("windlass_run_seconds", "Time of a model's run.", _MODEL)
BATCH = Metric("windlass_batch_rows", "Rows that shared a run.", _MODEL)
QUEUED = Metric("windlass_queued", "Rows waiting for a run.", _MODEL)
SAVED = Metric("windlass_saved_total", "Requests that left the queue before their run, by why.", (*_MODEL, "why"))
CONNECTIONS = Metric("windlass_connections", "Open connections.")
PENDING = Metric("windlass_pending_bytes", "Bytes of requests that are not yet answered.")
LOG_DROPPED = Metric("windlass_access_log_dropped_total", "Lines that the access log could not write.", ("reason",))
OVERFLOWED = Metric("windlass_series_overflow_total", "Series that found no room and are counted as `overflow`.")
EXPOSURES = Metric(
    "windlass_exposures_total", "Draws of an arm: noted, and those whose line in the log was lost.", ("model", "result")
)
SHADOWED = Metric(
    "windlass_shadow_requests_total",
    "Answered requests that a shadow might be asked: skipped, dropped, mirrored; compared, disagreed, failed; "
    "of those with one row, to which both gave a class: classed, class_differed.",
    ("model", "shadow", "result"),
)
SHADOW_ROWS = Metric(
    "windlass_shadow_rows_total",
    "Compared rows with scores, and those with the same highest.",
    ("model", "shadow", "result"),
)
MODEL_LOAD = Metric(
    "windlass_model_load_seconds", "Time from the first byte read to the first answer, per model.", _MODEL
)
MODEL_BYTES = Metric("windlass_model_bytes", "Size of a loaded model's files.", _MODEL)
GENERATION = Metric("windlass_spec_generation", "The generation of the serving spec in force.")
RESTARTS = Metric("windlass_worker_restarts_total", "Workers that ended unasked and were started again.")
HEARTBEAT = Metric("windlass_worker_heartbeat_seconds", "Time since a worker's loop last turned.", ("worker",))

# The names that existing Triton dashboards ask for.
_TRITON = ("model", "version")
TRITON_SUCCESS = Metric("nv_inference_request_success", "Successful requests.", _TRITON)
TRITON_FAILURE = Metric("nv_inference_request_failure", "Failed requests.", _TRITON)
TRITON_COUNT = Metric("nv_inference_count", "Rows inferred.", _TRITON)
TRITON_EXECUTIONS = Metric("nv_inference_exec_count", "Runs of the model.", _TRITON)
TRITON_DURATION = Metric("nv_inference_request_duration_us", "Cumulative time of requests in microseconds.", _TRITON)
TRITON_QUEUE = Metric("nv_inference_queue_duration_us", "Cumulative time in the queue in microseconds.", _TRITON)
TRITON_COMPUTE = Metric("nv_inference_compute_infer_duration_us", "Cumulative time of runs in microseconds.", _TRITON)
