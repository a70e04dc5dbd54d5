// Asks a server as @grpc/grpc-js does: a unary call, one compressed, one too late, one cancelled, a stream, an error.
// Usage: node grpc_client.js ADDRESS INFER SLOW (messages in base64); writes what came as JSON.
"use strict";
const grpc = require(require.resolve("@grpc/grpc-js", { paths: [process.env.NODE_MODULES] }));

const [address, infer, slow] = process.argv.slice(2);
const service = "/inference.GRPCInferenceService/";
const same = (bytes) => bytes;
const message = Buffer.from(infer, "base64");
const slowMessage = Buffer.from(slow, "base64");

function client(options) {
  return new grpc.Client(address, grpc.credentials.createInsecure(), options);
}

function unary(from, method, bytes, options, act) {
  return new Promise((resolve) => {
    const metadata = new grpc.Metadata();
    metadata.set("x-request-id", "from-node");
    let id = null;
    const call = from.makeUnaryRequest(service + method, same, same, bytes, metadata, options, (error, answer) => {
      resolve(error ? { code: error.code, details: error.details } : { answer: answer.toString("base64"), id });
    });
    call.on("metadata", (received) => (id = received.get("x-request-id")[0]));
    if (act) act(call);
  });
}

function stream(from, count) {
  return new Promise((resolve) => {
    const answers = [];
    const call = from.makeBidiStreamRequest(service + "ModelStreamInfer", same, same, new grpc.Metadata(), {});
    call.on("data", (answer) => answers.push(answer.toString("base64")));
    call.on("status", (status) => resolve({ code: status.code, answers }));
    call.on("error", () => {});
    for (let index = 0; index < count; index += 1) call.write(message);
    call.end();
  });
}

async function main() {
  const plain = client({});
  const packed = client({ "grpc.default_compression_algorithm": 2 });
  const found = {
    unary: await unary(plain, "ModelInfer", message, {}),
    packed: await unary(packed, "ModelInfer", message, {}),
    many: await Promise.all(Array.from({ length: 50 }, () => unary(plain, "ModelInfer", message, {}))),
    late: await unary(plain, "ModelInfer", slowMessage, { deadline: Date.now() + 100 }),
    cancelled: await unary(plain, "ModelInfer", slowMessage, {}, (call) => setTimeout(() => call.cancel(), 50)),
    unknown: await unary(plain, "NoSuchMethod", message, {}),
    stream: await stream(plain, 20),
  };
  console.log(JSON.stringify(found));
  plain.close();
  packed.close();
}

main();
