"""The rooms of the packages: imports go one way, and no files import each other in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "protos": ROOT / "protos/statecell",
    "export": ROOT / "export/statecell_export",
    "server": ROOT / "server/statecell_server",
    "client": ROOT / "clients/python/statecell_client",
}
LEAVES = {"errors", "config", "device", "options", "__init__"}
"""Files of the server beside its rooms that every room may import."""
ROOMS: dict[str, set[str]] = {
    "access": set(),
    "arena": set(),
    "durability": {"access"},
    "runtimes": {"arena"},
    "sessions": {"access", "arena", "durability"},
    "batching": {"arena", "durability", "runtimes", "sessions"},
    "engine": {"access", "arena", "batching", "durability", "runtimes", "sessions"},
    "transport": {"access"},
    "protocols": {"access", "batching", "engine", "sessions", "transport"},
    "workers": {"access", "batching", "engine", "protocols", "sessions", "transport"},
    "telemetry": {"batching", "durability", "engine", "sessions", "transport"},
    "page": {"access", "batching", "engine", "protocols", "sessions", "telemetry", "transport"},
}
"""The server's rooms, and the rooms that each may import."""
EXPORT_ROOMS: dict[str, set[str]] = {
    "reading": set(),
    "writing": {"reading"},
    "proving": {"reading", "writing"},
    "judging": {"reading"},
    "adopting": {"judging", "proving", "reading", "writing"},
}
"""The exporter's. Its other files are the face: they may import all, and rooms only those in EXPORT_LEAVES."""
EXPORT_LEAVES = {"errors", "quiet", "report", "repository", "__init__"}


def imports(path: Path) -> set[str]:
    """Names of the modules that the file imports anywhere in it, for the type checker alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def files(package: str) -> dict[str, Path]:
    """The package's files by their names within it; a folder's `__init__` has the folder's name before it."""
    folder = PACKAGES[package]
    return {path.relative_to(folder).with_suffix("").as_posix().replace("/", "."): path for path in folder.rglob("*.py")}


def own(package: str, path: Path) -> set[str]:
    """The files of the package that the file imports."""
    prefix, known = f"{PACKAGES[package].name}.", files(package)
    names = {name.removeprefix(prefix) for name in imports(path) if name.startswith(prefix)}
    return {name if name in known else name.rpartition(".")[0] for name in names} & known.keys()


def room(name: str, rooms: dict[str, set[str]]) -> str:
    """The room that a file is in; "" for one beside the rooms."""
    first = name.partition(".")[0]
    return first if first in rooms else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    graph = {name: own(package, path) - {name} for name, path in files(package).items()}
    while graph:
        free = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in free}


@pytest.mark.parametrize(("package", "rooms", "leaves"), [("server", ROOMS, LEAVES), ("export", EXPORT_ROOMS, EXPORT_LEAVES)])
def test_rooms_import_one_way(package: str, rooms: dict[str, set[str]], leaves: set[str]) -> None:
    for name, path in files(package).items():
        here = room(name, rooms)
        if not here:
            continue
        for other in own(package, path):
            there = room(other, rooms)
            allowed = there == here or there in rooms[here] or (not there and other in leaves)
            assert allowed, f"{name} imports {other}"


@pytest.mark.parametrize(("package", "rooms"), [("server", ROOMS), ("export", EXPORT_ROOMS)])
def test_every_folder_is_a_room_that_says_what_it_is_for(package: str, rooms: dict[str, set[str]]) -> None:
    folders = {path.parent.name for path in PACKAGES[package].glob("*/__init__.py")}
    assert folders == set(rooms)
    for name in rooms:
        assert ast.get_docstring(ast.parse((PACKAGES[package] / name / "__init__.py").read_text())), name


def test_leaves_of_the_server_stand_on_nothing() -> None:
    for name in LEAVES:
        assert own("server", files("server")[name]) <= LEAVES, name


def test_the_transport_knows_no_message_of_ours() -> None:
    for name, path in files("server").items():
        if room(name, ROOMS) == "transport":
            assert not {module.split(".")[0] for module in imports(path)} & {"google", "statecell", "numpy"}, name


def test_only_protocols_and_transport_know_grpc_and_protobuf() -> None:
    for name, path in files("server").items():
        if room(name, ROOMS) in set(ROOMS) - {"protocols", "transport", "workers"}:
            assert not {module.split(".")[0] for module in imports(path)} & {"grpc", "google", "grpc_status"}, name
            assert not any(module.startswith(("statecell.v1", "statecell.oip")) for module in imports(path)), name


@pytest.mark.parametrize(
    ("library", "module"),
    [
        ("onnxruntime", "runtimes.ort_session"),
        ("torch", "runtimes.torchscript"),
        ("valkey", "durability.valkey_store"),
        ("opentelemetry", "telemetry.traces"),
    ],
)
def test_one_file_knows_a_library(library: str, module: str) -> None:
    knowing = {name for name, path in files("server").items() if library in {m.split(".")[0] for m in imports(path)}}
    assert knowing == {module}


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("protos", {"statecell_server", "statecell_client", "statecell_export", "torch", "onnx", "onnxruntime"}),
        ("server", {"statecell_client", "statecell_export"}),
        ("client", {"statecell_server", "statecell_export", "torch", "onnx", "onnxruntime"}),
        ("export", {"statecell_server", "statecell_client", "grpc"}),
    ],
)
def test_a_package_stands_on_the_protos_alone(package: str, foreign: set[str]) -> None:
    for path in files(package).values():
        assert not {module.split(".")[0] for module in imports(path)} & foreign, path
