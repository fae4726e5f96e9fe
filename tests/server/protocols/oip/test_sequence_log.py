"""The roll of live sequences, from one server to the next."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from statecell_server.protocols.oip import sequence_log as log_module
from statecell_server.protocols.oip.sequence_log import SequenceLog

HOUR = 3600.0


@contextmanager
def opened(path: Path | None, ttl: float = HOUR) -> Iterator[SequenceLog]:
    """As one server after the other has it."""
    with closing(SequenceLog(path, ttl)) as roll:
        yield roll


def test_what_was_live_is_lost_and_stays_so_until_it_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "roll"
    with opened(path) as first:
        for name in ("a", "b", "new\nline"):
            first.begin(name)
        first.end("b")
        assert "a" not in first
    with opened(path) as second:
        assert ("a" in second, "b" in second, "new\nline" in second) == (True, False, True)
        second.begin("a")
        assert "a" not in second
        second.end("a")
    with opened(path) as third:
        assert ("a" in third, "new\nline" in third) == (False, True)


def test_lost_is_forgotten_after_the_time_to_live(tmp_path: Path) -> None:
    with opened(tmp_path / "roll") as roll:
        roll.begin("a")
    with opened(tmp_path / "roll", ttl=0.0) as roll:
        assert "a" not in roll


def test_a_line_that_was_not_written_to_its_end_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "roll"
    with opened(path) as roll:
        roll.begin("a")
    with path.open("a") as file:
        file.write('+"half a na')
    with opened(path) as roll:
        assert "a" in roll


def test_the_file_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SLACK", 10)
    path = tmp_path / "roll"
    with opened(path) as roll:
        roll.begin("stays")
        for i in range(100):
            roll.begin(f"sequence {i}")
            roll.end(f"sequence {i}")
    assert path.read_text().count("\n") < 20
    with opened(path) as roll:
        assert "stays" in roll


def test_without_a_path_nothing_is_kept() -> None:
    with opened(None) as roll:
        roll.begin("a")
        roll.end("a")
        assert "a" not in roll
