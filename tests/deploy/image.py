"""Image: one that buildah has built, and its programs as a container engine would run them.

No engine's daemon is needed: each program is process 1 of its own PID namespace, with the image's user, environment and
entry point, and its file system read-only. What an engine adds (a network of its own, cgroups, seccomp) is not there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.conftest import LIMIT

_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
if [ -n "$MODELS" ]; then mount --bind -o ro "$MODELS" "$ROOT/models"; fi
mount -o remount,bind,ro "$ROOT"
exec chroot --userspec "$WHO" "$ROOT" /usr/bin/env -i "$@"
"""


class Unavailable(Exception):
    """There is no such image here, or no way to run it; the reason says what to install or build."""


class Image:
    """`with Image("statecell-server:1.2.3") as image:`; Raises Unavailable."""

    def __init__(self, name: str) -> None:
        if shutil.which("buildah") is None:
            raise Unavailable("buildah is not installed: apt-get install buildah")
        if os.geteuid():
            raise Unavailable("an image is entered as root only")
        found = subprocess.run(["buildah", "inspect", "--type", "image", f"localhost/{name}"], capture_output=True, check=False)
        if found.returncode:
            raise Unavailable(f"there is no image {name}: make image ENGINE=buildah")
        self.config: dict[str, Any] = json.loads(found.stdout)["Docker"]["config"]
        self._name = name

    def __enter__(self) -> Self:
        self._container = _buildah("from", "--pull-never", f"localhost/{self._name}")
        self.root = Path(_buildah("mount", self._container))
        return self

    def __exit__(self, *_: object) -> None:
        _buildah("rm", self._container)

    @contextmanager
    def run(self, *command: str, models: Path | None = None) -> "Iterator[subprocess.Popen[str]]":
        """The command in the image, with `models` mounted at /models where it is given. Killed at the end of the block."""
        if models is not None:
            (self.root / "models").mkdir(exist_ok=True)  # as an engine makes the place of a mount
        shell = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _ENTER, "enter"]
        variables = {"ROOT": str(self.root), "MODELS": str(models or ""), "WHO": self.config["User"]}
        with subprocess.Popen(
            [*shell, *self.config["Env"], *command],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def serve(self, *options: str) -> list[str]:
        """The command of `docker run IMAGE OPTIONS`, at a free port of this machine alone."""
        return [*self.config["Entrypoint"], "--host", "127.0.0.1", "--port", "0", *options]


def first_process(process: "subprocess.Popen[str]") -> int:
    """The id, out here, of the image's process 1."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
