"""What is read from a table, and what is said of one that does not hold the model's numbers."""

from pathlib import Path

import pytest
from statecell_client.cli.table import Columns, read


def table(
    folder: Path, text: str | bytes, width: int, columns: Columns | None = None, name: str = "flow.csv"
) -> list[list[float]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [[float(cell) for cell in line] for _, line in read(path, width, columns or Columns())]


def refusal(folder: Path, text: str | bytes, width: int, columns: Columns | None = None) -> str:
    with pytest.raises(ValueError, match=r"flow\.csv") as refused:
        table(folder, text, width, columns)
    return str(refused.value)


@pytest.mark.parametrize("cell", ["3,25", "-0,5", "12,"])
def test_a_decimal_comma_is_named_with_the_option_that_reads_it(tmp_path: Path, cell: str) -> None:
    text = f"flow;level\n7;{cell}\n"
    told = refusal(tmp_path, text, 2, Columns(delimiter=";"))
    assert "line 2, column 'level'" in told
    assert told.endswith("--decimal ,")
    assert table(tmp_path, text, 2, Columns(delimiter=";", decimal=",")) == [[7, float(cell.replace(",", "."))]]


def test_a_cell_that_is_no_number_either_way_is_not_taken_for_a_decimal_comma(tmp_path: Path) -> None:
    assert "decimal" not in refusal(tmp_path, "flow;level\n7;a,b\n", 2, Columns(delimiter=";"))


@pytest.mark.parametrize(
    ("text", "advised"),
    [
        ("day;flow;level\n1.2.;7,5;8,25\n", "--delimiter ';' --decimal ,"),
        ("day\tflow\tlevel\n1.2.\t7,5\t8,25\n", "--delimiter tab --decimal ,"),
        ("flow|level\n7.5|8\n", "--delimiter '|'"),
        ("7,5;8\n1;2\n", "--delimiter ';' --decimal ,"),
    ],
)
def test_how_a_table_is_written_is_guessed_whole(tmp_path: Path, text: str, advised: str) -> None:
    assert refusal(tmp_path, text, 2).endswith(f"is it another delimiter? {advised}")


def test_a_point_between_thousands_is_not_a_decimal_point_where_commas_are(tmp_path: Path) -> None:
    told = refusal(tmp_path, "flow;level\n1.234;8,5\n", 2, Columns(delimiter=";", decimal=","))
    assert "line 2, column 'flow' has '1.234'" in told


@pytest.mark.parametrize("cell", ["1_000", "0x1F", "1e5x"])
def test_only_what_people_write_for_a_number_is_one(tmp_path: Path, cell: str) -> None:
    assert f"has {cell!r}, expected a number" in refusal(tmp_path, f"flow\n2\n{cell}\n", 1)


@pytest.mark.parametrize("cell", ["NaN", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_named_by_its_place(tmp_path: Path, cell: str) -> None:
    assert f"line 3, column 'level' has {cell!r}, expected a finite number" in refusal(tmp_path, f"f,level\n1,2\n3,{cell}\n", 2)


def test_a_first_line_of_gaps_is_a_line_and_no_titles(tmp_path: Path) -> None:
    assert "line 1, column 1 has 'nan'" in refusal(tmp_path, "nan,nan\n1,2\n", 2)


@pytest.mark.parametrize("cell", ["", "NA", "null", "#N/A"])
def test_a_gap_is_told_to_be_filled(tmp_path: Path, cell: str) -> None:
    assert refusal(tmp_path, f"f,level\n1,2\n3,{cell}\n", 2).endswith("fill the gap first, or leave the line out")


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_what_excel_writes_as_unicode_is_read(tmp_path: Path, coding: str) -> None:
    mark = b"\xff\xfe" if coding == "utf-16-le" else b""
    assert table(tmp_path, mark + "Größe,level\r\n1,2\r\n".encode(coding), 2, Columns(("Größe", "level"))) == [[1, 2]]


@pytest.mark.parametrize("coding", ["latin-1", "cp1252", "shift-jis"])
def test_another_coding_is_named_by_its_line_with_how_to_convert_it(tmp_path: Path, coding: str) -> None:
    text = "flow,level\n1,2\n3,4 £\n" if coding != "shift-jis" else "flow,level\n1,2\n3,4 温\n"
    told = refusal(tmp_path, text.encode(coding), 2)
    assert "line 3 has a byte 0x" in told
    assert "iconv -f" in told


def test_titles_that_are_one_fewer_than_the_columns_are_not_taken_for_others(tmp_path: Path) -> None:
    assert "line 2 has 3 columns, expected 2 as in line 1" in refusal(
        tmp_path, "flow,level\nmon,1,2\n", 2, Columns(("flow", "level"))
    )


def test_a_title_of_several_columns_is_asked_about_and_never_advised(tmp_path: Path) -> None:
    text = "rate,rate,level\n1,2,3\n"
    assert refusal(tmp_path, text, 2, Columns(("rate", "level"))).endswith("1 and 2")
    assert refusal(tmp_path, text, 2).endswith("--columns 1,2")
    assert table(tmp_path, text, 2, Columns(("2", "level"))) == [[2, 3]]


@pytest.mark.parametrize(("text", "advised"), [(",flow\n0,1\n", "1"), ("a b,c\nx,1\n", "c"), ("x,net flow\nx,1\n", "2")])
def test_advised_columns_can_be_typed_as_they_are(tmp_path: Path, text: str, advised: str) -> None:
    assert refusal(tmp_path, text, 1).endswith(f"--columns {advised}")


def test_one_column_is_one_column(tmp_path: Path) -> None:
    assert "has 1 column (flow), the model takes 2" in refusal(tmp_path, "flow\n1\n", 2)


def test_tabs_stand_between_the_columns_of_a_tsv(tmp_path: Path) -> None:
    assert table(tmp_path, "flow\tlevel\n1\t2\n", 2, name="flow.tsv") == [[1, 2]]
    assert table(tmp_path, "flow;level\n1;2\n", 2, Columns(delimiter=";"), name="flow.tsv") == [[1, 2]]
