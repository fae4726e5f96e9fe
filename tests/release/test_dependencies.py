"""docs/dependencies.md says what the packages ask for."""

import re

from packaging.requirements import Requirement

from tests.test_packages import FOLDERS, ROOT, project

_ROW = re.compile(
    r"^\| (?P<name>[a-z-]+) \| `(?P<range>[^`]+)`(?: \(`(?P<extra>[a-z]+)`.*?\))? \| (?P<reason>.+) \|$", re.MULTILINE
)


def asked(folder: str) -> set[tuple[str, str, str]]:
    """Name, range and extra of each requirement that is not a package of ours."""
    about = project(folder)
    texts = [(text, "") for text in about["dependencies"]]
    texts += [(text, extra) for extra, more in about.get("optional-dependencies", {}).items() for text in more]
    needs = [(Requirement(text), extra) for text, extra in texts]
    return {(need.name, str(need.specifier), extra) for need, extra in needs if not need.name.startswith("statecell-")}


def test_each_dependency_stands_there_with_its_range_and_a_reason() -> None:
    parts = re.split(r"^## ", (ROOT / "docs/dependencies.md").read_text(), flags=re.MULTILINE)
    tables = {part.partition("\n")[0]: part for part in parts}
    for folder in FOLDERS:
        rows = _ROW.finditer(tables[project(folder)["name"]])
        said = {(row["name"], ",".join(sorted(row["range"].split(","))), row["extra"] or "") for row in rows}
        assert said == {(name, ",".join(sorted(span.split(","))), extra) for name, span, extra in asked(folder)}, folder
