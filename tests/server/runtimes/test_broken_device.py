"""A device that breaks or is full is never the caller's fault."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.server.caller import Caller, reason_of

# A step whose x begins with 666 finds the device broken, as a run on a GPU does whose kernels have failed.
BREAKING = """
import sys
from statecell_server.__main__ import app
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.runtime import DeviceLost

run = OnnxRuntime.run

def breaking(self, plan):
    if plan.inputs[0].flat[0] == 666:
        raise DeviceLost("cuda:0 is broken for this process (CUDA_ERROR_ILLEGAL_ADDRESS, 700)")
    run(self, plan)

OnnxRuntime.run = breaking
app(sys.argv[1:])
"""


def test_a_server_whose_device_breaks_sends_its_callers_elsewhere_and_stops_with_the_reason(models: Path) -> None:
    flags = ["--models", str(models), "--port", "0", "--store", "memory"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", BREAKING, *flags], text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            caller = Caller(process.stdout.readline().split()[-1])
            session = caller.create("lstm", durable=True)
            x = np.ones((1, 1, 10), np.float32)
            caller.step(session, x, 0)
            with pytest.raises(grpc.RpcError) as caught:
                caller.step(session, x * 666, 1)
            assert reason_of(caught.value) == "DRAINING"
            assert "700" in str(caught.value.details())
            assert process.wait(timeout=60) == 1
            assert "stopped, start it again: cuda:0 is broken" in process.stderr.read().splitlines()[-1]
            caller.channel.close()
        finally:
            process.kill()


DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_OF_A_KIND"; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = 0; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxSynchronize(void) { return SICK; }
int cuMemAlloc_v2(unsigned long long *pointer, unsigned long size) { return CODE; }
"""

ASK = """
from statecell_server.device import Device
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.ort_session import blamed
try:
    DeviceMemory(Device("cuda"), 64)
except Exception as error:
    print(type(error).__name__)
for said in ("no such word in the vocabulary", "BFCArena: Failed to allocate memory for requested buffer"):
    print(type(blamed(RuntimeError(said), Device("cuda"))).__name__)
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("code", "sick", "said"),
    [
        (2, 0, ["DeviceError", "RunError", "StateBudgetExceeded"]),
        (719, 719, ["DeviceLost", "DeviceLost", "DeviceLost"]),
    ],
)
def test_the_driver_is_asked_before_an_input_is_blamed(tmp_path: Path, code: int, sick: int, said: list[str]) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    flags = ["-shared", "-fPIC", f"-DCODE={code}", f"-DSICK={sick}", "-o", "libcuda.so.1"]
    subprocess.run(["cc", *flags, "driver.c"], cwd=tmp_path, check=True)
    paths = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASK], env=os.environ | paths, capture_output=True, text=True, check=True)
    assert done.stdout.split() == said
