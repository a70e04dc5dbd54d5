"""What a careful engineer writes by hand: FastAPI, a pydantic model of the body, onnxruntime, orjson for the answer.

The route is `async def` and runs the model in place, and pydantic reads the bytes itself: for a model of microseconds
both are faster here than the thread pool of a plain `def` and than FastAPI's own reading of the body.
"""

import os

import numpy as np
import onnxruntime
import orjson
import pydantic
from fastapi import FastAPI, HTTPException, Request, Response

DTYPES = {"FP32": np.float32, "INT64": np.int64}

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
app = FastAPI()


class Tensor(pydantic.BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferRequest(pydantic.BaseModel):
    inputs: list[Tensor]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: Request) -> Response:
    try:
        tensors = InferRequest.model_validate_json(await request.body()).inputs
        feed = {t.name: np.array(t.data, DTYPES[t.datatype]).reshape(t.shape) for t in tensors}
    except (KeyError, ValueError) as e:
        raise HTTPException(400, str(e)) from None
    outputs = [
        {"name": name, "shape": y.shape, "datatype": "FP32", "data": y.ravel()}
        for name, y in zip(names, session.run(names, feed), strict=True)
    ]
    body = orjson.dumps({"model_name": model, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")
