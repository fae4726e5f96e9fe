"""make gpu-check: every probe in a process of its own, then bench/cuda.py and the tests that need a GPU. At most eight minutes.

Prints one table and writes bench/results/gpu-check-<date>.json. Exits with 1 where anything does not hold; on a GPU a skipped
test does not. --device cpu runs all of it that a machine without one can.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_check.probes import PROBES

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"bits": 120.0, "kernel": 120.0, "large growth": 90.0}
"""Seconds of a probe at most; 60 where it is not named."""
TESTS = "tests/server/runtimes"


def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or cpu to try what can be tried without a GPU.")] = "cuda",
    only: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(PROBES)}, bench, tests; repeatable. [default: all]")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds for everything.")] = 480,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = ROOT / "bench" / "results",
) -> None:
    """Check the server's CUDA path on this machine's GPU. Example: make gpu-check"""
    until = time.monotonic() + limit
    found: dict[str, dict[str, Any]] = {}
    for name in only or [*PROBES, "tests", "bench"]:
        began = time.monotonic()
        seconds = min(LIMITS.get(name, 60.0), until - began)
        if seconds < 5:
            found[name] = {"holds": False, "said": f"not begun: {limit:g} s had passed", "figures": {}}
        elif name == "bench":
            found[name] = bench(device, until - began, out)
        elif name == "tests":
            found[name] = tests(device, until - began)
        else:
            found[name] = probe(name, device, seconds)
        found[name]["seconds"] = round(time.monotonic() - began, 1)
        verdict = "holds" if found[name]["holds"] else "DOES NOT HOLD"
        print(f"{name}: {verdict} ({found[name]['seconds']} s): {found[name]['said']}", flush=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"gpu-check-{now[:10]}.json"
    path.write_text(json.dumps({"date": now, "device": device, "found": found}, indent=1) + "\n")
    Console(width=160).print(table(found))
    print(path)
    if not all(entry["holds"] for entry in found.values()):
        raise typer.Exit(1)


def table(found: dict[str, dict[str, Any]]) -> Table:
    """A line a probe."""
    drawn = Table("probe", "holds", "s", "what was seen")
    for name, entry in found.items():
        drawn.add_row(name, "yes" if entry["holds"] else "NO", f"{entry['seconds']}", entry["said"])
    return drawn


def probe(name: str, device: str, seconds: float) -> dict[str, Any]:
    """What bench.gpu_check.probes printed last; or how it ended."""
    code, printed, logged = _run([sys.executable, "-m", "bench.gpu_check.probes", name, device], seconds)
    lines = printed.strip().splitlines()
    if code == 0 and lines:
        return dict(json.loads(lines[-1]))
    last = (logged.strip().splitlines() or ["nothing was said"])[-1]
    return {"holds": False, "said": f"exit code {code}: {last}", "figures": {"log": logged[-4000:]}}


def bench(device: str, seconds: float, out: Path) -> dict[str, Any]:
    """bench/cuda.py in the time that is left; it writes a JSON of its own beside ours."""
    command = [sys.executable, "bench/cuda.py", "--device", device, "--limit", str(max(seconds - 30, 10)), "--out", str(out)]
    code, printed, logged = _run([*command, "--seconds", "0.3"], seconds)
    last = (printed.strip().splitlines() or logged.strip().splitlines() or ["nothing was said"])[-1]
    return {"holds": code == 0, "said": f"exit code {code}: {last}", "figures": {"printed": printed, "log": logged[-2000:]}}


def tests(device: str, seconds: float) -> dict[str, Any]:
    """Those that need a GPU, in this Python: where there is one, all of them run and pass."""
    command = [sys.executable, "-m", "pytest", TESTS, "-k", "on_a_gpu", "-p", "no:cacheprovider"]
    code, printed, _ = _run(command, seconds, STATECELL_GPU_PYTHON=sys.executable)
    last = (printed.strip().splitlines() or ["nothing was said"])[-1]
    holds = code == 0 and ("skipped" not in last or device == "cpu")
    return {"holds": holds, "said": last, "figures": {"printed": printed[-4000:]}}


def _run(command: Sequence[str], seconds: float, **environment: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, logged = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            printed, logged = process.communicate()
            return -9, printed, f"{logged}\nended after {seconds:.0f} s"
    return process.returncode, printed, logged


if __name__ == "__main__":
    typer.run(main)
