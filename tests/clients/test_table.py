"""What is said of a table that does not hold the model's numbers."""

from pathlib import Path

import pytest
from statecell_client.cli.table import Columns, read


@pytest.mark.parametrize("cell", ["3,25", "-0,5", "12,"])
def test_a_decimal_comma_is_named_as_what_is_wrong(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "flow.csv"
    path.write_text(f"flow;level\n7;{cell}\n")
    with pytest.raises(ValueError, match="line 2, column 'level'") as refused:
        read(path, 2, Columns(delimiter=";"))
    assert str(refused.value).endswith("write its numbers with a point, as in 1.5")


def test_a_cell_that_is_no_number_either_way_is_not_taken_for_a_decimal_comma(tmp_path: Path) -> None:
    path = tmp_path / "flow.csv"
    path.write_text("flow;level\n7;a,b\n")
    with pytest.raises(ValueError, match="expected a number") as refused:
        read(path, 2, Columns(delimiter=";"))
    assert "point" not in str(refused.value)
