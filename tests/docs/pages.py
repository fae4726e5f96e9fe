"""Markdown pages as their code blocks, and how each of them is run.

A comment in front of a block, which the reader does not see, says what else there is to know:

    <!-- given: ticks = [0.1, 0.2] -->          run before the block, in its language: what the text has spoken of
    <!-- serves -->                             a server's command: it runs until the end of the page
    <!-- example: node -->                      run by the tests of that language
    <!-- not run: it builds an image -->        the block is not run, and why
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "docs", "clients/*", "export", "server", "protos")
    for path in ROOT.glob(f"{folder}/*.md" if folder else "*.md")
)
RUN = {"python", "sh"}
LANGUAGES = RUN | {"js", "cpp", "cmake", "mermaid", "text"}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>given|serves|example|not run)(?:: (?P<note>.*?))? -->\n)?"
    r"^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    mark: str
    note: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.mark != "not run"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["code"], found["mark"] or "", found["note"] or "")
