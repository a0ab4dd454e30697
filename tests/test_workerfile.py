"""Which files may be run: regular, of a known language, inside a worker root, writable by no stranger."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from damad.errors import InvalidWorker
from damad.workerfile import resolve


def a_worker(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("def main():\n    return {}\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    a_worker(tmp_path / "outside.py")
    root = a_worker(tmp_path / "workers" / "hello.py").parent
    a_worker(root / "deep" / "er" / "load.py")
    return root


@pytest.mark.parametrize(
    "worker", ["hello.py", "./hello.py", "deep/er/load.py", "deep/../hello.py", "deep//er/load.py"]
)
def test_a_worker_is_found_relative_to_its_root(root: Path, worker: str) -> None:
    assert resolve(worker, (root,)) == Path(os.path.realpath(root / worker))


def test_a_worker_may_be_named_by_its_absolute_path(root: Path) -> None:
    assert resolve(str(root / "hello.py"), (root.parent / "none", root)) == root / "hello.py"


def test_the_first_root_that_has_it_wins(root: Path, tmp_path: Path) -> None:
    second = a_worker(tmp_path / "second" / "hello.py").parent
    a_worker(second / "other.py")
    assert resolve("hello.py", (root, second)) == root / "hello.py"
    assert resolve("hello.py", (second, root)) == second / "hello.py"
    assert resolve("other.py", (root, second)) == second / "other.py"


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        ("../outside.py", "outside"),
        ("deep/../../outside.py", "outside"),
        ("", "outside"),
        (".", "outside"),
        ("deep", "not a regular file"),
        ("deep/er/", "no file"),
        ("hello.py/", "no file"),
        ("hello.py/x.py", "not there"),
        ("vanished.py", "not there"),
        ("hello", "not there"),
        ("hello.PY", "not there"),
        ("hello.py\0", "no file"),
        ("\ud800.py", "no file"),
        ("x" * 300 + ".py", "not there"),
        ("/etc/passwd", "outside"),
    ],
)
def test_another_path_is_refused_with_the_reason(root: Path, worker: str, why: str) -> None:
    with pytest.raises(InvalidWorker, match=why) as refused:
        resolve(worker, (root,), pointer="/worker")
    assert (refused.value.status, refused.value.pointer) == (422, "/worker")


@pytest.mark.parametrize("name", ["run.sh", "run", "run.pyc", "run.py.txt", ".py"])
def test_a_file_of_no_known_language_is_refused(root: Path, name: str) -> None:
    a_worker(root / name)
    with pytest.raises(InvalidWorker, match="language"):
        resolve(name, (root,))


@pytest.mark.parametrize("name", ["run.js", "run.mjs", "run.ts"])
def test_a_worker_for_node_is_refused_where_there_is_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    a_worker(root / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidWorker, match=r"Node\.js") as refused:
        resolve(name, (root,), pointer="/worker")
    assert (refused.value.status, refused.value.pointer) == (422, "/worker")
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert resolve(name, (root,)) == root / name


def test_a_link_is_what_it_points_to(root: Path, tmp_path: Path) -> None:
    (root / "inside.py").symlink_to("hello.py")
    (root / "out.py").symlink_to(tmp_path / "outside.py")
    (root / "broken.py").symlink_to("vanished.py")
    (root / "away").symlink_to(tmp_path)
    assert resolve("inside.py", (root,)) == root / "hello.py"
    for worker in ("out.py", "away/outside.py"):
        with pytest.raises(InvalidWorker, match="outside"):
            resolve(worker, (root,))
    with pytest.raises(InvalidWorker, match="not there"):
        resolve("broken.py", (root,))


def test_a_worker_that_is_replaced_meanwhile_is_there(root: Path) -> None:
    replaced = threading.Event()

    def replace() -> None:
        while not replaced.is_set():
            a_worker(root / "new").replace(root / "hello.py")

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        try:
            for _ in range(2000):
                assert resolve("hello.py", (root,)) == root / "hello.py"
        finally:
            replaced.set()
        replacing.result()


def test_a_root_may_be_named_as_the_kernel_names_what_was_deleted(tmp_path: Path) -> None:
    root = a_worker(tmp_path / "workers (deleted)" / "hello.py").parent
    (tmp_path / "link").symlink_to(root)
    assert resolve("hello.py", (tmp_path / "link",)) == root / "hello.py"


def test_a_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert resolve("hello.py", (tmp_path / "link",)) == root / "hello.py"


def test_a_worker_may_be_named_through_the_link_that_its_root_is(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert resolve(str(link / "hello.py"), (link,)) == root / "hello.py"
    assert resolve(str(root / "hello.py"), (link,)) == root / "hello.py"
    assert resolve(str(link / "hello.py"), (root,)) == root / "hello.py"


def test_a_link_that_leads_to_itself_is_refused(root: Path) -> None:
    (root / "loop.py").symlink_to("loop.py")
    (root / "one").symlink_to("other")
    (root / "other").symlink_to("one")
    for worker in ("loop.py", "one/hello.py"):
        with pytest.raises(InvalidWorker):
            resolve(worker, (root,))


def test_a_root_inside_another_opens_no_way_out(root: Path) -> None:
    assert resolve("load.py", (root, root / "deep" / "er")) == root / "deep" / "er" / "load.py"
    with pytest.raises(InvalidWorker, match="outside"):
        resolve("../../hello.py", (root / "deep" / "er",))
    with pytest.raises(InvalidWorker, match="outside"):
        resolve(str(root / "hello.py"), (root / "deep",))


def test_a_folder_whose_name_begins_like_the_root_is_outside(root: Path) -> None:
    beside = a_worker(root.with_name("workers-of-others") / "evil.py")
    for worker in (str(beside), "../workers-of-others/evil.py"):
        with pytest.raises(InvalidWorker, match="outside"):
            resolve(worker, (root,))


def test_a_link_in_the_second_root_cannot_reach_the_first_ones_neighbours(root: Path, tmp_path: Path) -> None:
    second = a_worker(tmp_path / "second" / "other.py").parent
    (second / "out.py").symlink_to(tmp_path / "outside.py")
    (second / "across.py").symlink_to(root / "hello.py")
    with pytest.raises(InvalidWorker, match="outside"):
        resolve("out.py", (root, second))
    with pytest.raises(InvalidWorker):
        resolve("across.py", (second,))


@pytest.mark.parametrize("name", ["x.py", "deep/x.py"])
def test_a_folder_is_no_worker_whatever_its_name(root: Path, name: str) -> None:
    (root / name).mkdir()
    with pytest.raises(InvalidWorker, match="not a regular file"):
        resolve(name, (root,))


@pytest.mark.parametrize("worker", [None, 7, b"hello.py", ["hello.py"]])
def test_what_is_no_text_names_no_file(root: Path, worker: Any) -> None:
    with pytest.raises(InvalidWorker, match="no file"):
        resolve(worker, (root,))


def test_a_pipe_is_no_worker(root: Path) -> None:
    os.mkfifo(root / "pipe.py")
    with pytest.raises(InvalidWorker, match="not a regular file"):
        resolve("pipe.py", (root,))


@pytest.mark.parametrize("place", ["deep/er/load.py", "deep/er", "deep", "."])
def test_what_others_can_write_is_refused_up_to_the_root(root: Path, place: str) -> None:
    path = root / place
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(InvalidWorker, match="written by others") as refused:
        resolve("deep/er/load.py", (root,))
    assert str(path.resolve()) in str(refused.value)


def test_what_lies_above_the_root_is_not_judged(root: Path) -> None:
    root.parent.chmod(0o777)
    assert resolve("hello.py", (root,)) == root / "hello.py"


def test_without_a_root_there_is_no_worker() -> None:
    with pytest.raises(InvalidWorker):
        resolve("hello.py", ())
