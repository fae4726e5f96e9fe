"""The software bill of materials (CycloneDX 1.6, JSON): the wheels of a release, and what they stand on.

The wheels' own requirements are ranges; the versions listed are those of this environment, in which the tests were run.
"""

import hashlib
import json
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.errors import ReleaseError

EXTRAS = ("cpu", "uvloop", "valkey", "http", "cli")
"""The extras whose packages are listed as well: those of the image for the CPU, and the command's."""


def bill(wheels: dict[Path, Metadata], version: str, epoch: int) -> str:
    """The bill of these wheels as JSON; the same text for the same wheels, environment and epoch (seconds since 1970).

    Raises ReleaseError where something that a wheel needs is not installed here.
    """
    parts: dict[str, Component] = {}
    edges: dict[str, set[str]] = {}
    waiting: list[Requirement] = []
    own = {canonicalize_name(about.name) for about in wheels.values()}
    for path, about in wheels.items():
        name = canonicalize_name(about.name)
        sha256 = HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())
        parts[name] = _component(name, str(about.version), [sha256])
        needed = [need for need in about.requires_dist or [] if _applies(need, EXTRAS)]
        edges[name] = {canonicalize_name(need.name) for need in needed}
        waiting += needed
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in own:
            continue
        here = _installed(name)
        needed = [inner for text in here.requires or [] if _applies(inner := Requirement(text), tuple(need.extras))]
        # Another requirement of the same package, with extras, may need more.
        waiting += [inner for inner in needed if canonicalize_name(inner.name) not in edges.get(name, set())]
        edges.setdefault(name, set()).update(canonicalize_name(inner.name) for inner in needed)
        parts.setdefault(name, _component(name, here.version))
    return _text(parts, edges, version, epoch)


def _applies(need: Requirement, extras: tuple[str, ...]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise ReleaseError(f"{name} is needed and not installed here, so its version is not known: make venv") from None


def _component(name: str, version: str, hashes: list[HashType] | None = None) -> Component:
    url = PackageURL("pypi", name=name, version=version)
    kind = ComponentType.LIBRARY
    return Component(name=name, version=version, type=kind, purl=url, bom_ref=url.to_string(), hashes=hashes or [])


def _text(parts: dict[str, Component], edges: dict[str, set[str]], version: str, epoch: int) -> str:
    whole = Component(name="statecell", version=version, type=ComponentType.APPLICATION, bom_ref=f"statecell@{version}")
    bom = Bom(components=parts.values())
    bom.metadata.component = whole
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    own = [part for part in parts.values() if part.hashes]
    bom.register_dependency(whole, own)
    for name, part in parts.items():
        bom.register_dependency(part, [parts[needed] for needed in sorted(edges[name])])
    # A serial number is to differ for another bill only.
    content = "".join(sorted(f"{part.purl} {[h.content for h in part.hashes]}" for part in parts.values()))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"statecell {epoch} {content}")
    return json.dumps(json.loads(JsonV1Dot6(bom).output_as_string()), indent=1, sort_keys=True) + "\n"
