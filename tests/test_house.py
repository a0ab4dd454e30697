"""The rules of the house that a machine can check."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "damad").rglob("*.py"), *(ROOT / "workers").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
OURS = [path for path in MODULES if path.is_relative_to(ROOT / "damad")]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_file_has_more_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_support_that_fault_suites_share_is_not_taken_from_a_conftest() -> None:
    """There are two of that name, and whichever is imported first is the one."""
    imports = re.compile(r"^from conftest import", re.MULTILINE)
    assert [named(path) for path in MODULES if imports.search(path.read_text())] == []


def test_no_document_holds_what_a_merge_left_open() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "schema").rglob("*.sql")]
    marks = ("<" * 7, ">" * 7)
    assert [named(path) for path in documents if any(line.startswith(marks) for line in path.open())] == []


@pytest.mark.parametrize("path", OURS, ids=named)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    public = [
        tree,
        *(node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)),
    ]
    for node in [*public]:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            public += [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    missing = [
        getattr(node, "name", "the module")
        for node in public
        if not getattr(node, "name", "").startswith("_") and not ast.get_docstring(node)
    ]
    assert missing == []


@pytest.mark.parametrize("path", OURS, ids=named)
def test_a_function_tells_its_story_in_35_lines(path: Path) -> None:
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.body[0].lineno + 1) > 40
    }
    assert long == {}


@pytest.mark.parametrize("path", sorted((ROOT / "damad/eventstore/queries").glob("*.sql")), ids=named)
def test_a_query_file_holds_one_statement_and_somebody_runs_it(path: Path) -> None:
    statements = [text for text in re.sub(r"--[^\n]*", "", path.read_text()).split(";") if text.strip()]
    assert len(statements) == 1
    callers = [module for module in OURS if f'"{path.stem}"' in module.read_text()]
    assert callers, f"nobody runs {path.name}"


def test_sql_stands_in_sql_files() -> None:
    allowed = {"migrate.py", "listener.py", "pools.py"}
    offenders = [
        named(path)
        for path in OURS
        if path.name not in allowed
        and re.search(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM) [a-z_.*]+", path.read_text())
    ]
    assert offenders == []


def test_what_make_mutants_takes_away_is_there_once_and_so_are_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests/mutants")
    files = ("guards", *sorted(path.stem for path in (ROOT / "tests/mutants").glob("guards_of_*.py")))
    all_guards = [guard for name in files for guard in import_module(name).GUARDS]
    assert len({guard.name for guard in all_guards}) == len(all_guards)
    for guard in all_guards:
        assert (ROOT / guard.file).read_text().count(guard.text) == 1, guard.name
        for test in guard.tests:
            file, _, name = test.partition("::")
            assert name in (ROOT / file).read_text(), guard.name


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (ROOT / "damad/py.typed").exists()
