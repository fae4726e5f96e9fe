"""Which device a model runs on, and what is said where it cannot be had."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from statecell.v1 import inference_pb2 as pb
from statecell_server.config import Config, ConfigError
from statecell_server.device import Device
from statecell_server.runtimes import cuda, driver
from statecell_server.runtimes.loading import _rest
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.ort_session import cuda_options, strays
from statecell_server.runtimes.runtime import DeviceError, LoadError

from tests.conftest import LIMIT, Serve
from tests.server.caller import Caller

GPU_PYTHON = Path(os.environ.get("STATECELL_GPU_PYTHON", Path(__file__).parents[3] / ".venv-gpu/bin/python"))
"""Of an environment with statecell-server's requirements and onnxruntime-gpu in place of onnxruntime."""

gpu_build = pytest.mark.skipif(
    not GPU_PYTHON.exists(), reason=f"there is no {GPU_PYTHON}: make venv-gpu installs onnxruntime-gpu there (no GPU needed)"
)
no_driver = pytest.mark.skipif(driver.devices() > 0, reason="this machine has a GPU")
on_a_gpu = pytest.mark.skipif(driver.devices() == 0, reason="this machine has no GPU that its driver can use")


def refusal(*flags: str, models: Path, python: Path = Path(sys.executable)) -> str:
    """What a server that does not start says."""
    command = [str(python), "-m", "statecell_server", "--models", str(models), "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "device"),
    [("cpu", Device()), ("cuda", Device("cuda", 0)), ("cuda:3", Device("cuda", 3)), ("auto", Device("auto"))],
)
def test_devices_are_named_as_in_pytorch(text: str, device: Device) -> None:
    assert Device.parse(text) == device
    assert Device.parse(str(device)) == device


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "cuda:0 "])
def test_what_is_no_device_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected cpu, cuda, cuda:N or auto"):
        Device.parse(text)


def test_a_gpu_is_told_to_be_exact_and_how_much_it_may_take() -> None:
    assert cuda_options(Device("cuda", 1), 4 << 30) == {
        "device_id": "1",
        "gpu_mem_limit": str(4 << 30),
        "use_tf32": "0",
        "cudnn_conv_algo_search": "DEFAULT",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert "gpu_mem_limit" not in cuda_options(Device("cuda"), 0)


def test_the_memory_of_a_gpu_is_shared_out_between_states_and_the_rest(models: Path) -> None:
    config = Config(models=models, state_memory=2 << 30, device_memory=4 << 30)
    assert _rest(Device("cuda"), config) == 1 << 30, "an arena of 2 GiB takes 3 while it grows for the last time"
    assert _rest(Device("cpu"), config) == 0
    assert _rest(Device("cuda"), replace(config, state_arena="host")) == 4 << 30
    assert _rest(Device("cuda"), replace(config, device_memory=0)) == 0, "no limit"
    with pytest.raises(LoadError, match=r"--device-memory is 3221225472 bytes.*smaller --state-memory"):
        _rest(Device("cuda"), replace(config, device_memory=3 << 30))


def test_nodes_that_run_elsewhere_than_asked_are_counted_and_named(models: Path) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = models / "lstm" / "1" / "model.onnx"
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert strays(session, "CPUExecutionProvider") == ""
    said = strays(session, "CUDAExecutionProvider")
    assert "nodes run on the CPU (" in said
    assert "LSTM" in said


def test_the_cpu_build_is_told_from_a_missing_gpu() -> None:
    (lack,) = cuda.missing(0, "")
    assert "built for the CPU" in lack
    assert "statecell-server[gpu]" in lack


@no_driver
def test_everything_that_is_missing_is_named_at_once() -> None:
    lacks = "; ".join(cuda.missing(0, "97.0"))
    for what in ("NVIDIA driver", "libcuda.so.1", "libcublas.so.97", "libcublasLt.so.97", "libcudart.so.97", "[gpu]"):
        assert what in lacks


DRIVER = """
int cuInit(unsigned flags) { return CODE; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
"""


@no_driver
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("index", "code", "version", "said"),
    [
        (0, 100, 13000, "a GPU that the driver can use (cuInit: CUDA_ERROR_NO_DEVICE, 100)"),
        (1, 0, 12080, "a driver for CUDA 13.0 (the one here is for CUDA 12.8 at most)"),
        (2, 0, 13010, "device cuda:2 (the driver has 2, counted from 0)"),
        (1, 0, 13000, ""),
    ],
)
def test_what_the_driver_says_is_passed_on(tmp_path: Path, index: int, code: int, version: int, said: str) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    flags = ["-shared", "-fPIC", f"-DCODE={code}", f"-DVERSION={version}", "-o", "libcuda.so.1"]
    subprocess.run(["cc", *flags, "driver.c"], cwd=tmp_path, check=True)
    script = f"from statecell_server.runtimes import cuda; print(cuda._driver({index}, '13.0'))"
    paths = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | paths, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([said] if said else [])


def test_cuda_without_it_is_an_error_at_load_and_never_a_silent_cpu(models: Path) -> None:
    with pytest.raises(DeviceError, match=r"cuda:0 cannot be used, what is missing: .*built for the CPU"):
        OnnxRuntime(models / "lstm" / "1" / "model.onnx", device=Device("cuda"))


def test_a_server_told_to_use_cuda_without_it_does_not_start(models: Path) -> None:
    for flag in ("cuda", "cuda:1", "gru=cuda"):
        said = refusal("--device", flag, models=models)
        assert f"{'cuda:1' if flag == 'cuda:1' else 'cuda:0'} cannot be used" in said
        assert "pip install 'statecell-server[gpu]'" in said


def test_what_there_is_not_is_named(models: Path) -> None:
    assert "(device), but 'nobody' is no model; there are batch_first, " in refusal("--device", "nobody=cpu", models=models)
    assert "--device lstm is 'tpu', expected cpu, cuda, cuda:N or auto" in refusal("--device", "lstm=tpu", models=models)
    for field, value in (("state_arena", "disk"), ("batch_variance", "maybe"), ("device_memory", -1)):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} is "):
            Config(models=models, **{field: value})  # type: ignore[arg-type]


def test_torchscript_has_the_cpu_only_and_says_so(models: Path) -> None:
    said = refusal("--runtime", "gru=torchscript", "--device", "gru=cuda", models=models)
    assert "TorchScript" in said
    assert "--device gru=cpu" in said


def test_auto_takes_the_cpu_and_getmodel_says_why(serve: Serve) -> None:
    with serve("--device", "auto", "--device", "gru=cpu") as server:
        caller = Caller(server.address)
        model = caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model
        assert model.device == "cpu"
        assert model.note.startswith("--device auto took the CPU: cuda:0 cannot be used, what is missing: ")
        assert caller.stub.GetModel(pb.GetModelRequest(name="gru")).model.note == ""
        caller.channel.close()


@gpu_build
@no_driver
def test_the_gpu_build_without_a_gpu_refuses_cuda_and_names_driver_and_libraries(models: Path) -> None:
    said = refusal("--device", "cuda", models=models, python=GPU_PYTHON)
    for what in ("cuda:0 cannot be used", "the NVIDIA driver (libcuda.so.1", "--gpus all"):
        assert what in said


@gpu_build
@no_driver
def test_the_gpu_build_without_a_gpu_takes_the_cpu_on_auto_and_says_so_in_log_and_getmodel(serve: Serve) -> None:
    with serve("--device", "auto", python=GPU_PYTHON) as server:
        caller = Caller(server.address)
        model = caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model
        assert model.device == "cpu"
        assert "the NVIDIA driver (libcuda.so.1" in model.note
        assert caller.step(caller.create("lstm"), np.zeros((1, 1, 10), np.float32), 0).shape == (1, 1, 20)
        caller.channel.close()


@gpu_build
def test_the_gpu_build_serves_the_device_arena_on_the_cpu_without_torch(serve: Serve) -> None:
    with serve("--state-arena", "device", python=GPU_PYTHON) as server:
        caller = Caller(server.address)
        session = caller.create("lstm", 2)
        assert caller.step(session, np.ones((3, 2, 10), np.float32), 0).shape == (3, 2, 20)
        assert caller.state(session)["h_0"].shape == (2, 2, 20)
        caller.channel.close()


@gpu_build
@on_a_gpu
@pytest.mark.parametrize("arena", ["device", "host"])
def test_on_a_gpu_steps_snapshots_and_forks_are_what_they_are_on_the_cpu(serve: Serve, arena: str) -> None:
    x = np.random.default_rng(0).standard_normal((20, 2, 10), dtype=np.float32)
    shown = []
    for device in ("cpu", "cuda"):
        with serve("--device", device, "--state-arena", arena, python=GPU_PYTHON) as server:
            caller = Caller(server.address)
            assert (
                caller.stub.GetModel(pb.GetModelRequest(name="lstm")).model.device == {"cpu": "cpu", "cuda": "cuda:0"}[device]
            )
            session = caller.create("lstm", 2)
            ys = [caller.step(session, x[:7], 0), *(caller.step(session, x[t : t + 1], t) for t in range(7, 20))]
            state: dict[str, Any] = dict(caller.state(session))
            fork = caller.stub.ForkSession(pb.ForkSessionRequest(session_id=session)).sessions[0].session_id
            assert np.array_equal(caller.step(fork, x[:1]), caller.step(session, x[:1]))
            again = caller.create("lstm", 2, **state)
            assert all(np.array_equal(caller.state(again)[name], state[name]) for name in state)
            shown.append([np.concatenate(ys), *state.values()])
            caller.channel.close()
    for on_cpu, on_gpu in zip(*shown, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=5e-6)
