"""The clients of other languages, built once; where a language's tools are missing its tests are skipped."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.languages.driver import Driver
from tests.clients.proxy import Proxy, proxy_to

HERE = Path(__file__).parent
CLIENTS = HERE.parents[2] / "clients"
BUILD = HERE / "cpp" / "build"
ADDRESSES = {
    "python": '["localhost:50051", "localhost:50052"]',
    "node": "['localhost:50051', 'localhost:50052']",
    "cpp": '{"localhost:50051", "localhost:50052"}',
}


@dataclass(frozen=True)
class Language:
    """The commands of a built client: the driver, the example that streams, and the one in docs/protocol.md."""

    driver: list[str]
    example: list[str]
    documented: list[str]


DEBIAN = {"node": "nodejs", "protoc": "protobuf-compiler", "grpc_cpp_plugin": "protobuf-compiler-grpc"}
"""The packages of programs, where they have other names."""


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = (DEBIAN.get(program, program) for program in missing)
        pytest.skip(f"not installed: {', '.join(missing)}: apt-get install {' '.join(packages)}")


def make(*commands: list[str], cwd: Path) -> None:
    for command in commands:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}"


def documented(language: str, addresses: str) -> str:
    """The example of docs/protocol.md, with other addresses."""
    text = (CLIENTS.parent / "docs" / "protocol.md").read_text()
    code = text.partition(f"<!-- example: {language} -->\n```")[2].partition("\n")[2].partition("```")[0]
    return code.replace(ADDRESSES[language], addresses)


def node() -> Language:
    need("node", "npm")
    root = CLIENTS / "node"
    make(["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"], cwd=root)
    return Language(
        ["node", str(HERE / "node" / "driver.mjs")],
        ["node", str(root / "examples" / "stream.mjs")],
        ["node", "--input-type=module", "--eval", documented("node", "[process.env.ADDRESS]")],
    )


def cpp() -> Language:
    need("g++", "cmake", "pkg-config", "protoc", "grpc_cpp_plugin")
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"], check=False).returncode != 0:
        pytest.skip("not installed: libgrpc++-dev or libprotobuf-dev: apt-get install libgrpc++-dev libprotobuf-dev")
    BUILD.mkdir(exist_ok=True)
    example = BUILD / "documented.cpp"
    code = documented("cpp", '{std::getenv("ADDRESS"), std::getenv("ADDRESS")}')
    if not example.exists() or example.read_text() != code:  # lest it is compiled again
        example.write_text(code)
    # Without optimisation: the compiler is most of what these tests cost.
    configure = ["cmake", "-S", str(HERE / "cpp"), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Debug"]
    make(configure, ["cmake", "--build", str(BUILD), "--parallel", "2"], cwd=HERE)
    return Language([str(BUILD / "driver")], [str(BUILD / "statecell" / "stream")], [str(BUILD / "documented")])


BUILDERS: dict[str, Callable[[], Language]] = {"node": node, "cpp": cpp}


@pytest.fixture(scope="session", params=sorted(BUILDERS))
def language(request: pytest.FixtureRequest) -> Language:
    return BUILDERS[request.param]()


@pytest.fixture
def unconnected(language: Language) -> Iterator[Driver]:
    driver = Driver(language.driver)
    try:
        yield driver
    finally:
        driver.kill()


@pytest.fixture
def driver(unconnected: Driver, address: str) -> Driver:
    """A client of the server."""
    unconnected.connect(address)
    return unconnected


@pytest.fixture
def proxy(address: str) -> Iterator[Proxy]:
    with proxy_to(address) as proxy:
        yield proxy


@pytest.fixture
def shaky(unconnected: Driver, proxy: Proxy) -> Driver:
    """A client of the server behind the proxy."""
    unconnected.connect(proxy.address)
    return unconnected
