"""LitServe as its documentation shows: a LitAPI; its workers run the model, its server speaks HTTP."""

import os
import sys

import litserve
import numpy as np
import onnxruntime

DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Api(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def decode_request(self, request: dict) -> dict:
        return {t["name"]: np.array(t["data"], DTYPES[t["datatype"]]).reshape(t["shape"]) for t in request["inputs"]}

    def predict(self, feed: dict) -> list:
        return self.session.run(self.names, feed)

    def encode_response(self, outputs: list) -> dict:
        return {
            "outputs": [
                {"name": name, "shape": list(y.shape), "datatype": "FP32", "data": y.ravel().tolist()}
                for name, y in zip(self.names, outputs, strict=True)
            ]
        }


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/infer"), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error", access_log=False)
