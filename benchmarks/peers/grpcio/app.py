"""What a careful engineer writes by hand: grpcio's own server, on threads or on asyncio, and onnxruntime.

Raw contents in and out, one run a request, in place. Usage: app.py PORT threads|asyncio, the model in MODEL.
"""

import asyncio
import concurrent.futures
import os
import sys

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

DTYPES = {"FP32": np.float32, "INT64": np.int64}
OPTIONS = (("grpc.so_reuseport", 0),)

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]


def answer(request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
    feed = {
        one.name: np.frombuffer(raw, DTYPES[one.datatype]).reshape(one.shape)
        for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for name, y in zip(names, session.run(names, feed), strict=True):
        response.outputs.add(name=name, datatype="FP32", shape=y.shape)
        response.raw_output_contents.append(y.tobytes())
    return response


class Threads(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelInfer(self, request, _context):  # noqa: N802
        return answer(request)

    def ServerReady(self, _request, _context):  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)


class Asyncio(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, _context):  # noqa: N802
        return answer(request)

    async def ServerReady(self, _request, _context):  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)


async def serve(port: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Asyncio(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    port, kind = sys.argv[1:]
    if kind == "asyncio":
        asyncio.run(serve(port))
        return
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Threads(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


main()
