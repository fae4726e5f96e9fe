"""The section of a version in CHANGELOG.md."""

import re
from pathlib import Path

from release.errors import ReleaseError
from release.version import ROOT


def section(version: str, root: Path = ROOT) -> str:
    """What stands under `## [version]`. Raises ReleaseError where there is no such section, or nothing in it."""
    parts = re.split(r"^## \[(.+?)\].*$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if version not in sections:
        raise ReleaseError(
            f"CHANGELOG.md has no section '## [{version}]': rename '## [Unreleased]' to it, and put a new one above"
        )
    text = sections[version].strip()
    if not re.search(r"^- ", text, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md says nothing in its section '## [{version}]': write what users will notice, as '- …'")
    return text
