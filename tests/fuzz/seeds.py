"""`python -m tests.fuzz.seeds` writes the inputs that fuzzing begins with: one or two good ones of each kind."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hpack import Encoder
from statecell.oip import inference_pb2 as oip
from statecell.tensor import Array, pack
from statecell.v1 import inference_pb2 as pb
from statecell_server.durability.record import Record

from tests.fuzz.targets import LSTM, MANY

HERE = Path(__file__).parent / "corpus"
X = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
STATE = np.ones((2, 1, 5), np.float32)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(path: str, **more: str) -> bytes:
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("te", "trailers")]
    headers += [("content-type", "application/grpc"), *((name.replace("_", "-"), value) for name, value in more.items())]
    return bytes(Encoder().encode(headers))


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Target, name, content."""
    for spec in (LSTM, MANY):
        yield "spec", spec.name, spec.to_json().encode()
    snapshot = pb.Snapshot(format=1, model="lstm", digest="ab", batch=1, step_index=4, checksum=b"c" * 32)
    snapshot.states.extend([pack("h_0", STATE), pack("c_0", STATE)])
    yield "snapshot", "lstm", snapshot.SerializeToString()
    record = Record("lstm", "1", "ab", "owner", 1, 4, 1.5, {"h_0": STATE, "c_0": STATE}, 3, {"y": X}, b"nonce678")
    yield "record", "lstm", record.encode()
    yield "v1", "infer", pb.InferRequest(model="lstm", inputs=[pack("x", X), pack("h_0", STATE)]).SerializeToString()
    tokens: dict[str, Array] = {"tokens": np.ones((1, 4), np.int64), "speaker": np.array(3, np.int32), "on": np.array([True])}
    many = [pack(name, array) for name, array in tokens.items()]
    yield "v1", "many", pb.InferRequest(model="many", inputs=many).SerializeToString()
    yield "v1", "row", pack("x", X).SerializeToString()
    yield "v1", "state", pb.CreateSessionRequest(initial_state=[pack("h_0", STATE), pack("c_0", STATE)]).SerializeToString()
    raw = oip.ModelInferRequest(model_name="lstm", id="1", raw_input_contents=[X.tobytes()])
    raw.inputs.add(name="x", datatype="FP32", shape=X.shape)
    for name, value in (("sequence_id", 7), ("step_index", 2)):
        raw.parameters[name].int64_param = value
    raw.parameters["sequence_start"].bool_param = True
    raw.outputs.add(name="y")
    yield "oip", "raw", raw.SerializeToString()
    typed = oip.ModelInferRequest(model_name="lstm")
    typed.inputs.add(name="x", datatype="FP32", shape=X.shape).contents.fp32_contents.extend(X.ravel())
    yield "oip", "typed", typed.SerializeToString()
    step = block("/statecell.v1.InferenceService/Step", grpc_timeout="5S")
    talk = frame(1, 4, 1, step) + frame(0, 1, 1, b"\0\0\0\0\3abc") + frame(6, 0, 0, b"12345678") + frame(8, 0, 0, b"\0\0\1\0")
    yield "connection", "unary", b"\x40" + frame(4, 0, 0, b"\0\4\0\1\0\0") + talk
    stream = block("/statecell.v1.InferenceService/StreamSteps")
    parts = frame(1, 0, 3, stream[:20]) + frame(9, 4, 3, stream[20:]) + frame(0, 8, 3, b"\1\0\0\0\0\1a\0")
    yield "connection", "stream", b"\0" + parts + frame(3, 0, 3, b"\0\0\0\x08")
    yield "headers", "two", b"".join(bytes([len(b)]) + b for b in (step, stream))
    yield "files", "csv", b"\0a,b,c\n1,2,3\n4,5,6\n"
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, X)
    np.savez(npz, allow_pickle=False, **tokens)
    yield "files", "npy", b"\1" + npy.getvalue()
    yield "files", "npz", b"\2" + npz.getvalue()


if __name__ == "__main__":
    for target, name, content in seeds():
        (HERE / target).mkdir(parents=True, exist_ok=True)
        (HERE / target / name).write_bytes(content)
