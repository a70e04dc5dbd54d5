"""What the machine can do without any server: onnxruntime in a loop, one thread, at several batch sizes.

Started by `bench.py` on the server's core: `limits.py MODEL.onnx NAME SECONDS BATCH...`; prints one JSON line,
batch size -> rows a second, batch size -> processor time a row, and the median time of one run at batch 1 (us).
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import models
import numpy as np
import onnxruntime


def main(path: str, name: str, seconds: float, batches: list[int]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    row = models.MODELS[name].row()
    rates: dict[int, float] = {}
    cpu_us: dict[int, float] = {}
    p50_us = 0.0
    for batch in batches:
        feed = {key: np.repeat(value, batch, axis=0) for key, value in row.items()}
        session.run(None, feed)
        times = []
        before = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        rates[batch] = batch * len(times) / sum(times)
        cpu_us[batch] = (time.process_time() - before) / (batch * len(times)) * 1e6
        if batch == 1:
            p50_us = statistics.median(times) * 1e6
    print(json.dumps({"rates": rates, "cpu_us": cpu_us, "p50_us": p50_us}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), [int(text) for text in sys.argv[4:]])
