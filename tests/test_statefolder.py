"""The state folder: one host id for ever, one daemon at a time, nothing for strangers to read."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from damad import statefolder
from damad.errors import ConfigError


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    statefolder.prepare(folder)
    for place in (folder, folder / "logs", folder / "runs"):
        assert place.stat().st_mode & 0o777 == 0o700, place
    statefolder.prepare(folder)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_where_it_cannot_be_made_the_error_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=f"state_dir .*{place}"):
        statefolder.prepare(tmp_path / place)


def test_a_folder_that_nobody_used_has_no_host_id(tmp_path: Path) -> None:
    assert statefolder.host_id(tmp_path) is None
    assert statefolder.host_id(tmp_path / "absent") is None


def test_the_host_id_is_a_uuid_that_is_drawn_once(tmp_path: Path) -> None:
    first = statefolder.make_host_id(tmp_path)
    assert str(UUID(first)) == first
    assert statefolder.make_host_id(tmp_path) == first == statefolder.host_id(tmp_path)
    assert statefolder.make_host_id(tmp_path / "other") != first


def test_those_who_begin_at_the_same_time_end_with_the_same_id(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        ids = pool.map(statefolder.make_host_id, [tmp_path] * 16)
    assert len(set(ids)) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dama_host_id", "logs", "runs"]


def test_who_is_overtaken_while_it_draws_takes_the_id_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken: list[str] = []

    def draw() -> UUID:
        monkeypatch.undo()
        overtaken.append(statefolder.make_host_id(tmp_path))
        return uuid4()

    monkeypatch.setattr(statefolder, "uuid4", draw)
    assert [statefolder.make_host_id(tmp_path)] == overtaken == [statefolder.host_id(tmp_path)]


@pytest.mark.parametrize("content", ["", "no uuid", "1234", "\xff"])
def test_a_damaged_host_id_is_said_and_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "dama_host_id").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="dama_host_id"):
        statefolder.make_host_id(tmp_path)
    assert (tmp_path / "dama_host_id").read_bytes() == content.encode("latin-1")


HOLDER = """
import sys
from pathlib import Path
from damad import statefolder
with statefolder.only_daemon(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_daemon_is_refused_with_the_pid_of_the_first_for_as_long_as_it_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=str(holder.pid)), statefolder.only_daemon(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with statefolder.only_daemon(tmp_path):
            assert (tmp_path / "daemon.lock").read_text().strip() == str(os.getpid())


def test_the_place_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with statefolder.only_daemon(tmp_path):
            assert (tmp_path / "daemon.lock").stat().st_mode & 0o777 == 0o600
