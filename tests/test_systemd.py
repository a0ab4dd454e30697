"""What systemd hears, and the unit that runs damad."""

import configparser
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from damad import systemd
from damad.errors import InvalidInput


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    return unit


def test_the_unit_tells_when_it_is_ready_and_leaves_workers_alone_when_it_stops(tmp_path: Path) -> None:
    unit = parsed(systemd.unit(working_folder=tmp_path, user=None))
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["StateDirectory"] == "damad"
    assert unit["Service"]["WorkingDirectory"] == str(tmp_path)
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    assert "User" not in unit["Service"]


def test_it_runs_this_python_with_the_options_that_were_given(tmp_path: Path) -> None:
    unit = parsed(systemd.unit(working_folder=tmp_path, user="etl", options=["--pg-env", "north"]))
    command = unit["Service"]["ExecStart"].split()
    assert command[0] == sys.executable
    assert command[-4:] == ["damad", "serve", "--pg-env", "north"]
    assert unit["Service"]["User"] == "etl"


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/srv/100%/état", '"/srv/100%%/état"'),
        ("/srv/a b", '"/srv/a b"'),
        ('/srv/"x"', r'"/srv/\"x\""'),
        ("/srv/back\\slash", r'"/srv/back\\slash"'),
        ("/srv/$HOME", '"/srv/$$HOME"'),
        ("", '""'),
    ],
)
def test_a_word_is_written_so_that_systemd_reads_it_as_it_was_given(tmp_path: Path, word: str, written: str) -> None:
    unit = systemd.unit(working_folder=tmp_path, user=None, options=["--state-dir", word])
    assert f"serve --state-dir {written}" in unit.splitlines()[8]


def test_a_working_folder_with_a_percent_sign_and_blanks_is_that_folder() -> None:
    unit = parsed(systemd.unit(working_folder=Path("/srv/50% off"), user=None))
    assert unit["Service"]["WorkingDirectory"] == "/srv/50%% off"


@pytest.mark.parametrize("user", ["a b", "", "etl\nExecStart=/bin/sh", "-etl", "a/b", "a:b", "a%b"])
def test_what_is_no_name_of_a_user_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(InvalidInput, match="user"):
        systemd.unit(working_folder=tmp_path, user=user)


@pytest.mark.parametrize("folder", ["/srv/a\nb", "/srv/a ", "/srv/a\\", "/srv/\t"])
def test_a_folder_that_a_unit_cannot_name_is_refused(folder: str) -> None:
    with pytest.raises(InvalidInput, match="a unit cannot name"):
        systemd.unit(working_folder=Path(folder), user=None)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_itself_reads_a_program_in_an_odd_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not there is the one word that systemd-analyze shows as it understood it."""
    odd = tmp_path / "50% off in $HOME"
    monkeypatch.setattr(sys, "executable", str(odd / "python"))
    unit = tmp_path / "damad.service"
    unit.write_text(systemd.unit(working_folder=tmp_path, user=None, options=["--state-dir", str(odd)]))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert f"Command {odd / 'python'} is not executable" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_itself_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    unit = tmp_path / "damad.service"
    unit.write_text(systemd.unit(working_folder=tmp_path, user=None))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "damad.service:" not in done.stderr.replace(str(tmp_path), "")


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_notice_is_one_datagram_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if kind == "abstract" else address)
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert systemd.notify(READY="1", STATUS="2 pg_envs")
        assert listener.recv(4096).decode() == "READY=1\nSTATUS=2 pg_envs"


def test_outside_of_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(READY="1")


def test_a_socket_that_nobody_reads_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    assert not systemd.notify(READY="1")
