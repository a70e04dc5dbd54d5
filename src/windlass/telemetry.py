"""The names of all metrics: one vocabulary, in one place.

Used by serving, which counts, and by its exporter, which formats. Must never hold a number or open a port.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric's name and the sentence that Prometheus shows for it."""

    name: str
    help: str


REQUESTS = Metric("windlass_requests_total", "Requests by their one final outcome.")
REJECTED = Metric("windlass_rejected_total", "Requests refused before they reached a model, by reason.")
ERRORS = Metric("windlass_errors_total", "Failed requests by error code.")
LATENCY = Metric("windlass_request_seconds", "Time from a request's last byte to its answer.")
QUEUE = Metric("windlass_queue_seconds", "Time a request waited for its run.")
RUN = Metric("windlass_run_seconds", "Time of a model's run.")
BATCH = Metric("windlass_batch_rows", "Rows that shared a run.")
IN_FLIGHT = Metric("windlass_in_flight", "Requests admitted and not yet answered.")
QUEUED = Metric("windlass_queued", "Requests waiting for a run.")
CONNECTIONS = Metric("windlass_connections", "Open connections.")
MODEL_LOAD = Metric("windlass_model_load_seconds", "Time from the first byte read to the first answer, per model.")
MODEL_BYTES = Metric("windlass_model_bytes", "Size of a loaded model's files.")
GENERATION = Metric("windlass_spec_generation", "The generation of the serving spec in force.")

# The names that existing Triton dashboards ask for.
TRITON_SUCCESS = Metric("nv_inference_request_success", "Successful requests.")
TRITON_FAILURE = Metric("nv_inference_request_failure", "Failed requests.")
TRITON_COUNT = Metric("nv_inference_count", "Rows inferred.")
TRITON_EXECUTIONS = Metric("nv_inference_exec_count", "Runs of the model.")
TRITON_DURATION = Metric("nv_inference_request_duration_us", "Cumulative time of requests in microseconds.")
TRITON_QUEUE = Metric("nv_inference_queue_duration_us", "Cumulative time in the queue in microseconds.")
TRITON_COMPUTE = Metric("nv_inference_compute_infer_duration_us", "Cumulative time of runs in microseconds.")
