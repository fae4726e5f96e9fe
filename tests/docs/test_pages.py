"""Every block of code in the documentation that can run does, against a real server."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LIMIT, Serve
from tests.docs.pages import LANGUAGES, PAGES, ROOT, Block, blocks

ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):5005[12]")


@pytest.fixture(scope="module")
def address(serve: Serve, example_models: Path) -> Iterator[str]:
    with serve(models=example_models) as server:
        yield server.address


class Reader:
    """Does what a page says, block by block, in a folder of its own with the example models in models/."""

    def __init__(self, folder: Path, address: str, serve: Serve, stack: ExitStack) -> None:
        self.folder, self.address, self.serve, self.stack = folder, address, serve, stack
        self.names: dict[str, Any] = {"__name__": "__page__"}

    def do(self, block: Block) -> None:
        if block.mark == "serves":
            _, *flags = ADDRESS.sub(self.address, block.code).replace("--port 50051", "").split()
            flags = [flag for flag in flags if flag not in ("--models", "models")]
            self.address = self.stack.enter_context(self.serve(*flags, models=self.folder / "models")).address
            return
        given = block.note if block.mark == "given" else ""
        for code in filter(None, (given, block.code)):
            (self.python if block.language == "python" else self.shell)(ADDRESS.sub(self.address, code), block)

    def python(self, code: str, block: Block) -> None:
        exec(compile("\n" * block.line + code, str(ROOT / block.page), "exec"), self.names)

    def shell(self, code: str, block: Block) -> None:
        bin_folder = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "STATECELL_SERVER": self.address,
            "REPOSITORY": str(ROOT),
        }
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, f"{block}:\n{code}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, f"{block}: {done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))])
def test_what_a_page_shows_runs(
    page: str, address: str, serve: Serve, example_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(example_models, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with ExitStack() as stack:
        reader = Reader(tmp_path, address, serve, stack)
        for block in blocks(page):
            if block.runs:
                reader.do(block)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_its_language_and_each_that_does_not_run_says_why(page: str) -> None:
    text = (ROOT / page).read_text()
    found = list(blocks(page))
    assert 2 * len(found) == len(re.findall(r"^```", text, re.MULTILINE)), "a fence that is not closed, or indented"
    for block in found:
        assert block.language in LANGUAGES, f"{block} is {block.language!r}, expected one of {sorted(LANGUAGES)}"
        if block.mark == "not run":
            assert len(block.note.split()) >= 3, f"{block} does not say why it is not run"
        if block.language in ("js", "cpp"):
            assert block.mark in ("example", "not run"), f"{block} runs nowhere and does not say why"


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
