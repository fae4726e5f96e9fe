"""Imports go downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors", "device", "cuda", "roll", "cohort", "exchange", "front.frames", "front.allowance", "front.lookout"},
    {"config", "arena", "inputs", "snapshot", "record", "reply", "front.headers"},
    {"host_arena", "front.messages"},
    {"runtime", "front.call"},
    {"ort_session", "state_graph", "torchscript_runtime", "invariance", "sessions", "store", "front.outflow"},
    {"onnx_runtime", "graph_arena", "step", "spill", "valkey_store", "guarded_store", "front.inflow", "front.peer"},
    {"graph_runtime", "scheduler", "executor", "journal", "allotment", "front.connection"},
    {"ledger", "front.server"},
    {"runner"},
    {"repository", "ticket", "admission"},
    {"takeover"},
    {"intake"},
    {"turn"},
    {"ended", "engine", "sequence"},
    {"sequences"},
    {"wire", "oip_wire"},
    {"stream", "oip_stream", "oip_model", "grpcio_front"},
    {"service"},
    {"oip_service"},
    {"app"},
    {"__main__"},
]
"""The server's modules; each imports only from floors below its own."""
FRONT = {name for floor in FLOORS for name in floor if name.split(".")[0] == "front"}
"""What speaks HTTP/2 and gRPC, and knows no message of ours."""
CORE = set().union(*FLOORS[: FLOORS.index({"wire", "oip_wire"})]) - FRONT
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
    """By their names within the package."""
    folder = ROOT / "server/statecell_server"
    paths = {path.relative_to(folder).with_suffix("").as_posix().replace("/", "."): path for path in folder.rglob("*.py")}
    return {name: path for name, path in paths.items() if path.stem != "__init__"}


def own(path: Path) -> set[str]:
    """The server's modules that the file imports."""
    names = {name.removeprefix("statecell_server.") for name in imports(path) if name.startswith("statecell_server.")}
    known = server_modules().keys()
    return {name if name in known else name.rpartition(".")[0] for name in names} & known


def test_every_module_of_the_server_has_a_floor() -> None:
    assert set(server_modules()) == set().union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_the_server_imports_downwards(floor: int) -> None:
    below = set().union(*FLOORS[:floor])
    for name in FLOORS[floor]:
        assert own(server_modules()[name]) <= below, f"{name} imports {own(server_modules()[name]) - below}"


@pytest.mark.parametrize("name", sorted(FRONT))
def test_the_front_knows_nothing_of_the_rest(name: str) -> None:
    assert own(server_modules()[name]) <= FRONT | {"exchange"}
    assert not {module.split(".")[0] for module in imports(server_modules()[name])} & {"google", "statecell", "numpy"}


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
