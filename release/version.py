"""The version: `VERSION` has it, and every other place is written from there.

Packages carry their version and ask for their siblings' by number, so it cannot stand in one file alone; one command sets it.
"""

import re
from pathlib import Path

from release.errors import ReleaseError

ROOT = Path(__file__).parents[1]
NUMBER = r"[0-9]+\.[0-9]+\.[0-9]+"
PACKAGES = ("protos", "clients/python", "server", "export")
_OWN = ('\nversion = "{}"',)
_PINS = tuple(f'"statecell-{name}=={{}}"' for name in ("protos", "client", "server"))
_IMAGE = tuple(f"statecell-{name}:{{}}" for name in ("server", "export"))
PLACES: dict[str, tuple[str, ...]] = {
    "VERSION": ("{}\n",),
    "protos/pyproject.toml": _OWN,
    "clients/python/pyproject.toml": (*_OWN, _PINS[0]),
    "server/pyproject.toml": (*_OWN, _PINS[0]),
    "export/pyproject.toml": (*_OWN, *_PINS),
    "server/statecell_server/__init__.py": ('__version__ = "{}"',),
    "clients/node/package.json": ('"name": "statecell-client",\n  "version": "{}"',),
    "clients/node/package-lock.json": (
        '"name": "statecell-client",\n  "version": "{}"',
        '"name": "statecell-client",\n      "version": "{}"',
    ),
    "clients/node/README.md": ("statecell-client-{}.tgz",),
    "clients/cpp/CMakeLists.txt": ("project(statecell VERSION {} ",),
    "deploy/build.sh": (_IMAGE[0],),
    "README.md": (_IMAGE[0],),
    "docs/containers.md": (*_IMAGE, "STATECELL_VERSION={}"),
    "deploy/kubernetes/overlays/cpu/kustomization.yaml": ("newTag: {}",),
    "deploy/kubernetes/overlays/gpu/kustomization.yaml": ("newTag: {}-gpu",),
    "deploy/kubernetes/overlays/durable/kustomization.yaml": ("newTag: {}",),
    "deploy/kubernetes/kserve/servingruntime.yaml": (_IMAGE[0],),
}
"""Where the version stands, by path: the text around it, with `{}` for the version itself."""


def current(root: Path = ROOT) -> str:
    """What `VERSION` says."""
    return (root / "VERSION").read_text().strip()


def check(version: str) -> None:
    """Raises ReleaseError for what is no version that pip, npm and CMake all take."""
    if not re.fullmatch(NUMBER, version):
        raise ReleaseError(f"VERSION is {version[:80]!r}, expected three numbers: make release VERSION=1.2.3")


def found(root: Path = ROOT) -> dict[str, set[str]]:
    """The versions that stand in each place. Raises ReleaseError where a place has none."""
    versions: dict[str, set[str]] = {}
    for path, patterns in PLACES.items():
        text = (root / path).read_text()
        for pattern in patterns:
            here = set(_expression(pattern).findall(text))
            if not here:
                raise ReleaseError(f"{path} has no {pattern.strip()!r}: write it there, or mend PLACES in release/version.py")
            versions.setdefault(path, set()).update(here)
    return versions


def write(version: str, root: Path = ROOT) -> list[str]:
    """Sets the version everywhere; returns the paths of the files that changed. Raises ReleaseError."""
    check(version)
    found(root)  # before the first file is written
    changed = []
    for path, patterns in PLACES.items():
        before = text = (root / path).read_text()
        for pattern in patterns:
            text = _expression(pattern).sub(pattern.replace("{}", version).replace("\\", r"\\"), text)
        if text != before:
            (root / path).write_text(text)
            changed.append(path)
    return changed


def _expression(pattern: str) -> re.Pattern[str]:
    before, _, after = pattern.partition("{}")
    return re.compile(f"{re.escape(before)}({NUMBER}){re.escape(after)}")
