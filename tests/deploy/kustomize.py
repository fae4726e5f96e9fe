"""What kustomize makes of a folder of deploy/kubernetes, as far as these use it, and strict about the rest.

Resources, components, strategic merge patches (lists with names are merged by them, null takes away) and images' tags.
"""

from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images"}


def build(folder: Path) -> dict[tuple[str, str], Object]:
    """The objects by kind and name."""
    (about,) = load(folder / "kustomization.yaml")
    assert set(about) <= KNOWN, f"{folder}: {set(about) - KNOWN}"
    objects: dict[tuple[str, str], Object] = {}
    for name in about.get("resources", []):
        path = folder / name
        found = build(path) if path.is_dir() else {key(thing): thing for thing in load(path)}
        assert not objects.keys() & found.keys()
        objects |= found
    for patch in patches(folder, about):
        assert key(patch) in objects, f"{folder} patches {key(patch)}, which is not there"
        objects[key(patch)] = merged(objects[key(patch)], patch)
    for image in about.get("images", []):
        _tag(objects, image["name"], image["newTag"])
    return objects


def patches(folder: Path, about: Object) -> list[Object]:
    """The components' first, as kustomize applies them after resources and in front of the folder's own."""
    found: list[Object] = []
    for name in about.get("components", []):
        (component,) = load(folder / name / "kustomization.yaml")
        assert component["kind"] == "Component"
        found += patches(folder / name, component)
    return found + [patch for item in about.get("patches", []) for patch in load(folder / item["path"])]


def load(path: Path) -> list[Object]:
    return [dict(document) for document in yaml.safe_load_all(path.read_text())]


def key(thing: Object) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]


def merged(base: Any, patch: Any) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {name: merged(base.get(name), value) for name, value in patch.items() if value is not None}
        return {name: value for name, value in base.items() if name not in patch} | both
    named = isinstance(base, list) and all(isinstance(item, dict) and "name" in item for item in [*base, *patch])
    if named and isinstance(patch, list):
        over = {item["name"]: item for item in patch}
        kept = [merged(item, over.pop(item["name"], {})) for item in base]
        return [*kept, *over.values()]
    return patch


def _tag(objects: dict[tuple[str, str], Object], name: str, tag: str) -> None:
    found = [c for thing in objects.values() for c in thing["spec"].get("template", {}).get("spec", {}).get("containers", [])]
    changed = [container for container in found if container["image"] == name]
    assert changed, f"no container has the image {name}"
    for container in changed:
        container["image"] = f"{name}:{tag}"
