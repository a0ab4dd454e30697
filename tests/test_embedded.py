"""The embedded Postgres: it belongs to whoever uses it, and to nobody else (contract, section 6)."""

import asyncio
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from damad.errors import ConfigError
from damad.eventstore.embedded import EmbeddedPostgres

USER = """
import sys
from pathlib import Path
from damad.eventstore.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.join()
print("joined", flush=True)
sys.stdin.read()
server.leave()
"""
BEGIN = """
import os, sys
from pathlib import Path
from damad.eventstore.embedded import EmbeddedPostgres
state_dir = Path(sys.argv[1])
server = EmbeddedPostgres(state_dir)
server.join()
"""
FORKS_AND_ITS_CHILD_LEAVES = """
if not (child := os.fork()):
    server.leave()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("still answers" if server._answers() else "gone")
server.leave()
"""
FORKS_AND_LEAVES = """
waits, ends = os.pipe()
if not (child := os.fork()):
    os.close(ends)
    os.read(waits, 1)
    os._exit(0)
server.leave()
assert not server._answers()
other = EmbeddedPostgres(state_dir)
other.join()
print("joined again")
other.leave()
os.close(ends)
assert os.waitpid(child, 0)[1] == 0
"""
FORKS_AND_ITS_CHILD_JOINS = """
(child_waits, parent_left), (parent_waits, child_joined) = os.pipe(), os.pipe()
if not (child := os.fork()):
    os.close(parent_left)
    server.join()
    os.close(child_joined)
    os.read(child_waits, 1)
    ends_well = server._answers()
    server.leave()
    os._exit(0 if ends_well else 1)
os.close(child_joined)
os.read(parent_waits, 1)
server.leave()
print("the child keeps it" if server._answers() else "gone")
os.close(parent_left)
assert os.waitpid(child, 0)[1] == 0
"""
STRANGER = """
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except PermissionError:
    sys.exit(7)
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state folder; whatever a test leaves running in it is stopped."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    yield folder
    last = EmbeddedPostgres(folder)
    last.join()
    last.leave()
    assert not runs(folder)


def runs(state_dir: Path) -> bool:
    return (state_dir / "postgres" / "data" / "postmaster.pid").exists()


def run(program: str, state_dir: Path) -> str:
    """What a user that forks prints. It hangs no test: a lock that nobody gives back would be waited for for ever."""
    command = [sys.executable, "-c", BEGIN + program, str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def ask(server: EmbeddedPostgres, question: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def another_user(state_dir: Path) -> "subprocess.Popen[str]":
    """A process that uses the server until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    return process


async def test_whoever_joins_has_a_server_and_the_last_one_out_stops_it(state_dir: Path) -> None:
    one, other = EmbeddedPostgres(state_dir), EmbeddedPostgres(state_dir)
    one.join()
    assert await ask(one, "SELECT 1") == 1
    other.join()
    assert other.dsn == one.dsn
    one.leave()
    assert await ask(other, "SELECT 1") == 1
    other.leave()
    assert not runs(state_dir)
    with pytest.raises(OSError):
        await ask(other, "SELECT 1")


async def test_what_was_written_is_there_when_it_starts_again(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    await ask(server, "CREATE TABLE kept AS SELECT 7 AS n")
    server.leave()
    server.join()
    assert await ask(server, "SELECT n FROM kept") == 7
    server.leave()


def test_joining_and_leaving_twice_is_once(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.leave()
    server.join()
    server.join()
    server.leave()
    assert not runs(state_dir)
    server.leave()


async def test_a_user_in_another_process_keeps_it(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    other = another_user(state_dir)
    server.leave()
    assert await ask(server, "SELECT 1") == 1
    other.communicate("", timeout=120)
    assert other.returncode == 0
    assert not runs(state_dir)


async def test_a_user_that_was_killed_counts_no_more(state_dir: Path) -> None:
    killed = another_user(state_dir)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=120)
    server = EmbeddedPostgres(state_dir)
    assert await ask(server, "SELECT 1") == 1
    server.join()
    server.leave()
    assert not runs(state_dir)


def test_many_who_join_at_once_start_one_server(state_dir: Path) -> None:
    users = [EmbeddedPostgres(state_dir) for _ in range(6)]
    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(EmbeddedPostgres.join, users))
        pid = (state_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0]
        assert Path(f"/proc/{pid}").exists()
        list(pool.map(EmbeddedPostgres.leave, users))
    assert not runs(state_dir)


async def test_a_server_that_crashed_is_started_again(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    await ask(server, "CREATE TABLE kept AS SELECT 7 AS n")
    pid = int((state_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 120)[0], "it does not end"
    os.close(pidfd)
    second = EmbeddedPostgres(state_dir)
    second.join()
    assert await ask(second, "SELECT n FROM kept") == 7
    server.leave()
    second.leave()


async def test_a_forked_child_that_leaves_takes_nothing_from_its_parent(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    status = await asyncio.to_thread(run, FORKS_AND_ITS_CHILD_LEAVES, state_dir)
    assert status == "still answers\n"
    assert await ask(server, "SELECT 1") == 1
    server.leave()


def test_a_child_that_a_user_forked_is_no_user_and_locks_nobody_out(state_dir: Path) -> None:
    assert run(FORKS_AND_LEAVES, state_dir) == "joined again\n"
    assert not runs(state_dir)


def test_a_forked_child_may_be_a_user_of_its_own(state_dir: Path) -> None:
    assert run(FORKS_AND_ITS_CHILD_JOINS, state_dir) == "the child keeps it\n"
    assert not runs(state_dir)


async def test_users_with_different_folders_for_temporary_files_find_the_same_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    server = EmbeddedPostgres(folder)
    server.join()
    try:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        other = another_user(folder)
        other.communicate("", timeout=120)
        assert other.returncode == 0
        assert await ask(server, "SELECT 1") == 1
    finally:
        server.leave()


def test_a_state_folder_that_it_makes_is_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    server = EmbeddedPostgres(tmp_path / "state")
    try:
        server.join()
    finally:
        os.umask(before)
    try:
        assert [mode(path) for path in (tmp_path / "state", server.folder, server.data)] == [0o700] * 3
        assert [mode(tmp_path / "state" / name) for name in ("pg.lock", "pg.mutex")] == [0o600] * 2
    finally:
        server.leave()


def test_its_data_belong_to_the_owner_alone_and_no_parents_mode_is_opened(tmp_path: Path) -> None:
    parents = tmp_path / "closed" / "parents"
    parents.mkdir(parents=True)
    tmp_path.joinpath("closed").chmod(0o700)
    parents.chmod(0o750)
    above = [*parents.parents, parents]
    before = [(path, mode(path), path.stat().st_uid) for path in above]
    server = EmbeddedPostgres(parents / "new" / "state")
    server.folder.parent.mkdir(parents=True, mode=0o700)
    server.join()
    try:
        assert [(path, mode(path), path.stat().st_uid) for path in above] == before
        assert [mode(path) for path in (server.folder, server.data)] == [0o700, 0o700]
        assert {path.stat().st_uid for path in server.folder.iterdir()} == {os.geteuid()}
    finally:
        server.leave()


async def test_it_listens_on_no_tcp_port(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    assert await ask(server, "SHOW listen_addresses") == ""
    assert await ask(server, "SELECT inet_server_port()") is None
    server.leave()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
@pytest.mark.parametrize("long", [False, True], ids=["beside the data", "in the short folder"])
def test_no_other_account_can_connect(long: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="damad-open-", dir="/tmp"))
    folder.chmod(0o755)  # as open as a state folder's parent may be
    state_dir = folder / ("x" * 100 if long else "state")
    state_dir.mkdir(mode=0o755)
    server = EmbeddedPostgres(state_dir)
    server.join()
    try:
        path = server._socket_dir() / ".s.PGSQL.5432"
        socket.socket(socket.AF_UNIX).connect(str(path))
        stranger = [shutil.which("python3", path="/usr/bin:/bin") or sys.executable, "-c", STRANGER, str(path)]
        done = subprocess.run(stranger, user=65534, group=65534, extra_groups=[], cwd="/", check=False)
        assert done.returncode == 7
    finally:
        server.leave()
        shutil.rmtree(folder)


async def test_a_long_state_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / "with space 'and' quotes"
    folder.mkdir(parents=True)
    server = EmbeddedPostgres(folder)
    server.join()
    try:
        assert await ask(server, "SELECT 1") == 1
        assert mode(server._socket_dir()) == 0o700
    finally:
        server.leave()


async def test_a_state_path_of_any_letters_works(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "ein" Zustand, $(false) `false` \\ & 50%'
    folder.mkdir()
    server = EmbeddedPostgres(folder)
    server.join()
    try:
        assert await ask(server, "SELECT 1") == 1
    finally:
        server.leave()


def test_a_socket_folder_that_others_can_enter_is_refused(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    server.join()
    server.leave()
    server._socket_dir().chmod(0o755)
    with pytest.raises(ConfigError, match="not ours alone"):
        server.join()
    server.leave()
    server._socket_dir().chmod(0o700)


def test_a_half_made_data_folder_is_made_anew(state_dir: Path) -> None:
    server = EmbeddedPostgres(state_dir)
    (server.folder / "data.new").mkdir(parents=True)
    (server.folder / "data.new" / "PG_VERSION").write_text("18\n")
    server.join()
    assert (server.data / "global").is_dir()
    server.leave()
