"""BentoML as its documentation shows: a service class with one typed endpoint."""

import os

import bentoml
import numpy as np
import onnxruntime
import pydantic

DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Tensor(pydantic.BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    @bentoml.api
    async def infer(self, inputs: list[Tensor]) -> dict:
        feed = {t.name: np.array(t.data, DTYPES[t.datatype]).reshape(t.shape) for t in inputs}
        return {
            "outputs": [
                {"name": name, "shape": list(y.shape), "datatype": "FP32", "data": y.ravel().tolist()}
                for name, y in zip(self.names, self.session.run(self.names, feed), strict=True)
            ]
        }
