"""`python -m release set|seal|tag VERSION`: the three parts of `make release`, around `make wheels`."""

import argparse
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

from release import version as versions
from release.bill import bill
from release.changelog import section
from release.errors import ReleaseError


def set_version(version: str, committed: bool) -> None:
    """Writes the version everywhere; with `committed` it must stand everywhere already, and all be committed."""
    versions.check(version)
    section(version)
    if not committed:
        changed = versions.write(version)
        print(f"{version} stands in {len(versions.PLACES)} places" + (f"; written: {' '.join(changed)}" if changed else ""))
        return
    wrong = {path: found for path, found in versions.found().items() if found != {version}}
    if wrong:
        path, found = min(wrong.items())
        raise ReleaseError(
            f"{path} says {', '.join(sorted(found))}: run make release VERSION={version} without TAG, and commit"
        )
    if git("status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed: commit or remove them, git status lists them")
    if git("tag", "--list", f"v{version}"):
        raise ReleaseError(f"there is a tag v{version} already: a version is released once")


def seal(version: str, dist: Path) -> None:
    """Writes the bill of materials and the checksums of all files beside the packages in `dist`."""
    wheels = {path: _metadata(path) for path in sorted(dist.glob("*.whl"))}
    sdists = sorted(dist.glob("*.tar.gz"))
    strange = [about.name for about in wheels.values() if str(about.version) != version]
    if strange or not len(wheels) == len(sdists) == len(versions.PACKAGES):
        raise ReleaseError(f"{dist} does not hold a wheel and a sdist of version {version} for each package: make wheels")
    text = bill(wheels, version, int(os.environ["SOURCE_DATE_EPOCH"]))
    (dist / f"statecell-{version}.cdx.json").write_text(text)
    files = sorted(path for path in dist.iterdir() if path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (dist / "SHA256SUMS").write_text("".join(sums))
    print(f"{len(files)} files and SHA256SUMS in {dist}")


def tag(version: str) -> None:
    """Makes the annotated tag, whose message is the section of the changelog."""
    set_version(version, committed=True)
    git("tag", "--annotate", "--cleanup=verbatim", f"v{version}", "--message", f"statecell {version}\n\n{section(version)}\n")
    print(f"tagged v{version}: git push origin v{version}")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=versions.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _metadata(wheel: Path) -> Metadata:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(prog="release")
    parser.add_argument("part", choices=["set", "seal", "tag"])
    parser.add_argument("version", help="such as 1.2.3")
    parser.add_argument("--dist", type=Path, default=Path("dist"))
    parser.add_argument("--committed", action="store_true", help="set: change nothing, but refuse what a tag would be wrong on")
    asked = parser.parse_args()
    try:
        if asked.part == "set":
            set_version(asked.version, asked.committed)
        elif asked.part == "seal":
            seal(asked.version, asked.dist)
        else:
            tag(asked.version)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
