"""`make release`, in a repository of its own with this checkout's files."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release import version as versions
from tests.conftest import LIMIT
from tests.test_packages import ROOT

Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path, **env: str) -> Done:
    given = {name: value for name, value in os.environ.items() if name not in ("SOURCE_DATE_EPOCH", "MAKEFLAGS")} | env
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=LIMIT, check=False)


def git(folder: Path, *arguments: str) -> str:
    done = run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(folder: Path, version: str, *more: str, **env: str) -> Done:
    settings = ("--old-file", ".venv/.installed", f"BIN={Path(sys.executable).parent}", f"VERSION={version}")
    who = {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@example.org"}
    return run("make", *settings, "release", *more, cwd=folder, **who, **env)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no git checkout: git ls-files fails")
    folder = tmp_path / "checkout"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("bench/", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all of it")


def new_section(folder: Path, version: str, text: str = "- Something new.") -> None:
    path = folder / "CHANGELOG.md"
    path.write_text(path.read_text().replace("## [Unreleased]", f"## [Unreleased]\n\n## [{version}]\n\n{text}\n\n## [Rest]", 1))


def test_every_place_says_what_the_version_file_says() -> None:
    assert versions.found() == {path: {versions.current()} for path in versions.PLACES}


def test_no_other_place_has_the_version() -> None:
    """A number of ours: behind one of the names, or behind the word version."""
    number = re.compile(rf"(statecell[a-z_-]*[:=@ -]+|version *[=:] *.?)v?{re.escape(versions.current())}\b", re.IGNORECASE)
    listed = run("git", "ls-files", cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no git checkout: git ls-files fails")
    read = {name for name in listed.stdout.splitlines() if not name.startswith(("bench/results", "CHANGELOG", "tests/"))}
    found = {name for name in read if (ROOT / name).is_file() and number.search((ROOT / name).read_text(errors="replace"))}
    assert found <= set(versions.PLACES)


def test_a_release_is_the_same_bytes_twice_and_its_tag_is_made(checkout: Path, tmp_path: Path) -> None:
    new_section(checkout, "7.8.9")
    assert make(checkout, "7.8.9", f"DIST={tmp_path / 'first'}").returncode == 0
    assert versions.found(checkout) == {path: {"7.8.9"} for path in versions.PLACES}
    refused = make(checkout, "7.8.9", "TAG=1", f"DIST={tmp_path / 'none'}")
    assert "there are changes that are not committed" in refused.stderr
    assert not git(checkout, "tag")
    commit(checkout)

    one, two = tmp_path / "one", tmp_path / "two"
    done = make(checkout, "7.8.9", "TAG=1", f"DIST={one}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert git(checkout, "describe", "--tags") == "v7.8.9\n"
    assert "- Something new." in git(checkout, "tag", "--list", "--format=%(contents)")
    for path in checkout.rglob("*"):  # as another clone would have them
        os.utime(path, (1, 1), follow_symlinks=False)
    assert make(checkout, "7.8.9", f"DIST={two}").returncode == 0
    files = {path.name: path.read_bytes() for path in one.iterdir()}
    assert files == {path.name: path.read_bytes() for path in two.iterdir()}
    assert len(files) == 2 * len(versions.PACKAGES) + 2
    sums = files.pop("SHA256SUMS").decode().splitlines()
    assert sums == [f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in sorted(files)]
    again = make(checkout, "7.8.9", "TAG=1", f"DIST={one}")
    assert "there is a tag v7.8.9 already" in again.stderr

    bill = files["statecell-7.8.9.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert str(ROOT) not in bill
    assert str(tmp_path) not in bill
    for name in ("statecell-server@7.8.9", "pkg:pypi/hpack@", "pkg:pypi/torch@", "pkg:pypi/onnxruntime@", "pkg:pypi/uvloop@"):
        assert name in bill, name
    assert "pkg:pypi/pytest@" not in bill


@pytest.mark.parametrize(
    ("version", "text", "said"),
    [
        ("v1.2.3", "- x", "VERSION is 'v1.2.3', expected three numbers"),
        ("", "- x", "VERSION is '', expected three numbers"),
        ("1.2.3", None, "CHANGELOG.md has no section '## [1.2.3]'"),
        ("1.2.3", "Soon.", "CHANGELOG.md says nothing in its section '## [1.2.3]'"),
    ],
)
def test_what_cannot_be_released_is_said_and_changes_nothing(checkout: Path, version: str, text: str | None, said: str) -> None:
    if text is not None:
        new_section(checkout, version, text)
        commit(checkout)
    done = make(checkout, version)
    assert done.returncode != 0
    assert f"release: {said}" in done.stderr
    assert not git(checkout, "status", "--porcelain")
    assert not (checkout / "dist").exists()
