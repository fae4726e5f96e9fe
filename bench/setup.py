"""What all measurements share: cores, models, programs, and how long to measure."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
SHAPES = {"1x128": (1, 128), "1x512": (1, 512), "2x1024": (2, 1024)}
"""The models: num_layers and hidden_size of an nn.LSTM; its input_size is its hidden_size."""


class SetupError(Exception):
    """The machine's or the caller's fault: the message says what to do."""


@dataclass(frozen=True)
class Setup:
    """Times in seconds."""

    server_core: int
    load_core: int
    seconds: float  # that one measurement lasts
    warm: float  # before it
    quick: bool
    client: Path | None  # C++; None: bench/client.py
    echo: Path | None


def cores() -> tuple[int, int]:
    """(the server's, the load's). Raises SetupError."""
    have = sorted(os.sched_getaffinity(0))
    if len(have) < 2:
        raise SetupError("the benchmark needs two cores, one for the server and one for the load; this process may use one")
    return have[-1], have[0]


def build(name: str) -> Path:
    """The program of bench/<name>.cc, compiled where that has changed. Raises SetupError."""
    source, program = HERE / f"{name}.cc", CACHE / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    for tool in ("g++", "pkg-config"):
        if shutil.which(tool) is None:
            raise SetupError(f"{source.name} is not built: {tool} is missing; install it with: apt-get install g++ pkg-config")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False)
    if flags.returncode:
        raise SetupError(f"{source.name} is not built: install gRPC for C++ with: apt-get install libgrpc++-dev")
    CACHE.mkdir(exist_ok=True)
    command = ["g++", "-std=c++17", "-O2", "-Wall", "-o", str(program), str(source), *flags.stdout.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{source.name} does not compile: {done.stderr.strip()}")
    return program


def export(model: str) -> None:
    """The model, into its repository in the cache."""
    folder = repository(model)
    if folder.exists():
        return
    import statecell_export  # torch takes seconds to import
    import torch

    layers, size = SHAPES[model]
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(size, size, layers).eval()
    statecell_export.export(lstm, torch.randn(5, 3, size), name=model, out=folder)


def repository(model: str) -> Path:
    """The model repository that holds this model alone."""
    return CACHE / "models" / model
