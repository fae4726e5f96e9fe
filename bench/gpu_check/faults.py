"""Probes of what must not happen: threads that disturb each other, and a broken device that goes on answering."""

import ctypes
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
from statecell.tensor import Array, pack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc
from statecell_server.device import Device
from statecell_server.runtimes import driver
from statecell_server.runtimes.onnx_device import DeviceRuntime

from bench.gpu_check.finding import Finding
from bench.gpu_check.models import arena, exported, loaded, step

STEPS = 300


def two_threads(device: Device) -> Finding:
    """Two models step at once, one thread each, while a third thread reads their states."""
    runtimes = [loaded(device, "LSTM", hidden) for hidden in (128, 512)]
    alone = [_walk(runtime) for runtime in runtimes]
    together: list[list[Array]] = [[], []]
    threads = [threading.Thread(target=lambda i=i: together[i].extend(_walk(runtimes[i]))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = sum(not np.array_equal(a, b) for i in range(2) for a, b in zip(alone[i], together[i], strict=True))
    return Finding(wrong == 0, f"{wrong} of {2 * STEPS} steps differ", {"wrong": wrong, "steps": 2 * STEPS})


def _walk(runtime: DeviceRuntime) -> list[Array]:
    within = arena(runtime, 64)
    here, there, rng = list(range(1, 17)), list(range(17, 33)), np.random.default_rng(0)
    within.write(here, [s.fresh(16) for s in runtime.spec.states])
    done, wrong = threading.Event(), list[Array]()
    size = int(runtime.spec.inputs[0].shape[-1])

    def read() -> None:
        fresh = within.read([0])
        while not done.is_set():
            wrong.extend(a for a, b in zip(within.read([0]), fresh, strict=True) if not np.array_equal(a, b))

    reader = threading.Thread(target=read)
    reader.start()
    ys = []
    try:
        for _ in range(STEPS):
            x = rng.standard_normal((1, 16, size)).astype(np.float32)
            ys.append(step(runtime, within, x, here, there))
            here, there = there, here
    finally:
        done.set()
        reader.join()
    return ys if not wrong else []


PTX = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry stray()
{
  .reg .b64 %a;
  .reg .b32 %v;
  mov.u64 %a, 0;
  mov.u32 %v, 1;
  st.global.u32 [%a], %v;
  ret;
}
"""


def break_device(index: int) -> None:
    """Runs a kernel that writes to address 0: error 700 for every later call of this process, and of no other."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.enter(index)
    driver.call("cuModuleLoadData", ctypes.byref(module), PTX)
    driver.call("cuModuleGetFunction", ctypes.byref(function), module, b"stray")
    driver.call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, None, None)


SERVER = """
import sys, threading
from bench.gpu_check.faults import break_device
from statecell_server.__main__ import app
threading.Thread(target=lambda: sys.stdin.readline() and break_device({index}), daemon=True).start()
app({arguments!r})
"""


def broken(device: Device) -> Finding:
    """A server whose device breaks between two steps: the step is not the caller's fault, and the server stops and says why."""
    if device.kind == "cpu":
        return Finding(True, "not tried: a CPU does not break in this way")
    path, _ = exported("LSTM", 128)
    arguments = [
        "--models",
        str(path.parents[2]),
        "--port",
        "0",
        "--device",
        str(device),
        "--store",
        "memory",
        "--max-batch",
        "16",
    ]
    script = SERVER.format(index=device.index, arguments=arguments)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[-1]
        try:
            after = _break(address, process)
            code = process.wait(timeout=30)
            logged = process.stderr.read()
        finally:
            process.kill()
    last = logged.strip().splitlines()[-1] if logged.strip() else ""
    holds = code == 1 and "700" in last and after.startswith("UNAVAILABLE")
    said = f"exit code {code}; the step: {after[:60]}; {last[:60]}"
    return Finding(holds, said, {"exit code": code, "step": after, "last line": last, "log": logged[-2000:]})


def _break(address: str, process: "subprocess.Popen[str]") -> str:
    """What a step is answered after the device broke."""
    assert process.stdin is not None
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        session = stub.CreateSession(pb.CreateSessionRequest(model="lstm-1x128", batch=1, durable=True)).session.session_id
        request = pb.StepRequest(session_id=session)
        pack("x", np.ones((1, 1, 128), np.float32), request.inputs.add())
        stub.Step(request)
        process.stdin.write("now\n")
        process.stdin.flush()
        time.sleep(1)
        try:
            stub.Step(request, timeout=20)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return "answered"
