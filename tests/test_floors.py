"""Imports go downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors", "device", "cuda", "roll", "cohort", "__init__"},
    {"config", "arena", "inputs", "snapshot", "record", "reply"},
    {"host_arena"},
    {"runtime"},
    {"ort_session", "state_graph", "torchscript_runtime", "invariance", "sessions", "store"},
    {"onnx_runtime", "graph_arena", "step", "spill", "valkey_store", "guarded_store"},
    {"graph_runtime", "scheduler", "executor", "journal", "allotment"},
    {"ledger"},
    {"runner"},
    {"repository", "ticket", "admission"},
    {"takeover"},
    {"intake"},
    {"turn"},
    {"ended", "engine"},
    {"sequences"},
    {"wire", "oip_wire"},
    {"stream", "oip_stream", "oip_model"},
    {"service"},
    {"oip_service"},
    {"app"},
    {"__main__"},
]
"""The server's modules; each imports only from floors below its own."""
CORE = set().union(*FLOORS[: FLOORS.index({"wire", "oip_wire"})])
"""What knows neither protobuf nor gRPC."""


def imports(path: Path) -> set[str]:
    """Names of the modules that the file imports at run time."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def server_modules() -> dict[str, Path]:
    return {path.stem: path for path in (ROOT / "server/statecell_server").glob("*.py")}


def test_every_module_of_the_server_has_a_floor() -> None:
    assert set(server_modules()) == set().union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_the_server_imports_downwards(floor: int) -> None:
    below = set().union(*FLOORS[:floor])
    for name in FLOORS[floor]:
        own = {m.split(".")[1] for m in imports(server_modules()[name]) if m.startswith("statecell_server.")} - {"__version__"}
        assert own <= below, f"{name} imports {own - below}"


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_knows_neither_protobuf_nor_grpc(name: str) -> None:
    roots = {module.split(".")[0] for module in imports(server_modules()[name])}
    assert not roots & {"grpc", "google", "grpc_status"}
    assert not any(module.startswith(("statecell.v1", "statecell.oip")) for module in imports(server_modules()[name]))


@pytest.mark.parametrize(
    ("library", "module"), [("onnxruntime", "ort_session"), ("onnx", "state_graph"), ("torch", "torchscript_runtime")]
)
def test_one_module_knows_a_library(library: str, module: str) -> None:
    knowing = {name for name, path in server_modules().items() if library in {m.split(".")[0] for m in imports(path)}}
    assert knowing == {module}


@pytest.mark.parametrize(
    ("folder", "foreign"),
    [
        ("protos/statecell", {"statecell_server", "statecell_client", "statecell_export", "torch", "onnx", "onnxruntime"}),
        ("server/statecell_server", {"statecell_client", "statecell_export"}),
        ("clients/python/statecell_client", {"statecell_server", "statecell_export", "torch", "onnx", "onnxruntime"}),
        ("export/statecell_export", {"statecell_server", "statecell_client", "grpc"}),
    ],
)
def test_a_package_stands_on_the_protos_alone(folder: str, foreign: set[str]) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not {module.split(".")[0] for module in imports(path)} & foreign, path
