"""The documents say what is so."""

import ast
import re
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from lifecycle_page import page

from damad import cli, config
from damad.bench.goals import GOALS
from damad.model import settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "workers").rglob("*.md")]


def test_the_page_of_the_lifecycle_is_made_from_the_table() -> None:
    assert (ROOT / "docs/lifecycle.md").read_text() == page(), "run `make docs`"


def test_the_page_of_the_speed_shows_every_goal_once_and_each_has_a_note_of_what_bounds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests/bench")
    notes = import_module("notes").BOUNDS
    text = (ROOT / "docs/performance.md").read_text()
    assert [goal.key for goal in GOALS if f"(`{goal.key}`)" in text] == [goal.key for goal in GOALS], "run `make bench`"
    wanted = {goal.key for goal in GOALS if goal.wanted or any(each.wanted for each in (*goal.against, *goal.peers))}
    assert notes.keys() == wanted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_every_setting_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    first_table = text.split("```toml")[0]
    documented = {
        name for row in re.findall(r"^\| (`.+?`) \|", first_table, re.M) for name in re.findall(r"`(\w+)`", row)
    }
    fields = {field.name for field in msgspec.structs.fields(config.Config)} - {"pg_envs", "queues", "retention"}
    assert documented == fields


def test_every_task_setting_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/configuration.md").read_text().split("## Task settings")[1]
    documented = {name for row in re.findall(r"^\| (`.+?) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert documented == (settings.NAMES - {"worker"}) | {"parent_context_id", "source_id", "meta"}


def test_every_make_target_that_a_document_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:`|^)make ([a-z]+)\b", document.read_text(), re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{document.name}: make {target}"


def test_every_command_that_a_document_names_exists() -> None:
    commands = {place.partition(":")[2] for place in cli._COMMANDS} | {"queues", "systemd", "tokens"}
    for document in DOCUMENTS:
        for command in re.findall(r"(?:\$ |`)damad (?!ready on)([a-z]+)\b", document.read_text()):
            assert command in commands, f"{document.name}: damad {command}"


def test_the_page_of_the_faults_has_each_fault_that_a_test_names_and_no_other() -> None:
    named = {
        keyword.value.value
        for path in (ROOT / "tests").rglob("test_*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault"
        for keyword in call.keywords
        if keyword.arg == "fault" and isinstance(keyword.value, ast.Constant)
    }
    table = (ROOT / "docs/reliability.md").read_text().split("| fault |")[1]
    assert {row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()[2:]} == named, "run `make faults`"


def test_every_row_beside_the_other_systems_is_whole_and_names_a_test_that_exists() -> None:
    text = (ROOT / "docs/scheduling.md").read_text().split("\n## ", 1)[1]
    rows = [row.split(" | ") for row in re.findall(r"^\| (.*) \|$", text, re.M)]
    for row in rows:
        assert len(row) == len(rows[0]) and all(row), row
    for shown_by in (row[2].strip("`") for row in rows if row[1] != "damad"):
        path, _, name = shown_by.partition("::")
        tests = ast.parse((ROOT / path).read_text()).body
        assert name in {test.name for test in tests if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)}, name
