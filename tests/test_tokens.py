"""Tokens with names: made, found by what was sent, revoked; kept as hashes in the state folder."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from damad import context, tokens
from damad.context import EtlContext, Host
from damad.errors import ConfigError, Conflict, InvalidInput, NoContext, NotFound
from damad.tokens import Run, Tokens


def test_a_token_is_found_by_what_was_sent_and_by_nothing_else(tmp_path: Path) -> None:
    made, look = tokens.add(tmp_path, "ci", "write"), Tokens(tmp_path)
    found = look.find(made.encode())
    assert found is not None and (found.name, found.role, found.pg_env) == ("ci", "write", None)
    for other in (made + "x", made[:-1], made.upper(), "ci", found.hash, ""):
        assert look.find(other.encode()) is None


def test_no_file_of_the_state_folder_holds_the_token(tmp_path: Path) -> None:
    made = tokens.add(tmp_path, "ci", "read")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == [tokens.FILE]
    assert made not in files[0].read_text() and made.removeprefix("damad_") not in files[0].read_text()
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_a_token_that_was_revoked_is_found_no_more_by_who_had_found_it(tmp_path: Path) -> None:
    first, second, look = tokens.add(tmp_path, "a", "read"), tokens.add(tmp_path, "b", "read"), Tokens(tmp_path)
    assert look.find(first.encode()) and look.find(second.encode())
    tokens.revoke(tmp_path, "a")
    assert look.find(first.encode()) is None and look.find(second.encode())
    assert [token.name for token in tokens.every(tmp_path)] == ["b"]


def test_a_token_that_is_made_later_is_found_by_who_looks_already(tmp_path: Path) -> None:
    look = Tokens(tmp_path)
    assert look.find(b"anything") is None
    assert look.find(tokens.add(tmp_path, "late", "admin").encode())


def test_the_name_of_a_revoked_token_is_free_and_its_token_stays_dead(tmp_path: Path) -> None:
    old = tokens.add(tmp_path, "ci", "admin")
    tokens.revoke(tmp_path, "ci")
    new, look = tokens.add(tmp_path, "ci", "read"), Tokens(tmp_path)
    assert look.find(old.encode()) is None and look.find(new.encode())


def test_the_token_of_a_run_says_which_run_it_is_of_and_cannot_be_made_without_the_first_token() -> None:
    run = Run("gtfs", 17, 3)
    sent = tokens.sealed(run, "the first token")
    assert tokens.run_of(sent.encode(), "the first token") == run
    assert tokens.run_of(sent.encode(), "another first token") is None
    for other in (
        sent.replace(".17.", ".18."), sent.replace(".3.", ".4."), sent.replace("gtfs", "gtfz"), sent[:-1], sent + "A",
        sent.replace(".17.", ".017."), sent + "\n", "", "é",
    ):  # fmt: skip
        assert tokens.run_of(other.encode(), "the first token") is None


def test_outside_of_a_run_there_is_no_token_of_its_own(tmp_path: Path) -> None:
    here = Host(state_dir=tmp_path)
    for ctx in (EtlContext(pg_env="main", host=here), EtlContext(pg_env="main", etl_context_id=1, host=here)):
        with context.run_in(ctx), pytest.raises(NoContext):
            tokens.mine()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("role", "may"), [("read", ["read"]), ("write", ["read", "write"]), ("admin", ["read", "write", "admin"])]
)
def test_each_role_may_do_what_those_before_it_may(tmp_path: Path, role: str, may: list[str]) -> None:
    found = Tokens(tmp_path).find(tokens.add(tmp_path, "one", role).encode())
    assert found is not None and [role for role in tokens.ROLES if found.may(role)] == may


@pytest.mark.parametrize("name", ["", "CI", "1a", "a-b", "a b", "a" * 64, "é", "../x"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name for a token"):
        tokens.add(tmp_path, name, "read")
    assert tokens.every(tmp_path) == []


@pytest.mark.parametrize("role", ["", "root", "READ", "read,write"])
def test_what_is_no_role_is_refused_with_those_there_are(tmp_path: Path, role: str) -> None:
    with pytest.raises(InvalidInput, match="none of read, write, admin"):
        tokens.add(tmp_path, "ci", role)


def test_a_name_in_use_is_refused_and_its_token_goes_on(tmp_path: Path) -> None:
    made = tokens.add(tmp_path, "ci", "read")
    with pytest.raises(Conflict, match="'ci' already"):
        tokens.add(tmp_path, "ci", "admin")
    found = Tokens(tmp_path).find(made.encode())
    assert found is not None and found.role == "read"


def test_what_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no token 'ci'"):
        tokens.revoke(tmp_path, "ci")


def test_of_tokens_that_are_made_at_once_none_is_lost(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: tokens.add(tmp_path, f"t{number}", "read"), range(32)))
    look = Tokens(tmp_path)
    assert len(set(made)) == 32 and all(look.find(one.encode()) for one in made)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"name": "a"}]', b"\xff"])
def test_a_file_that_holds_no_tokens_lets_nobody_in_and_is_said_by_commands(tmp_path: Path, content: bytes) -> None:
    made, look = tokens.add(tmp_path, "ci", "admin"), Tokens(tmp_path)
    assert look.find(made.encode())
    (tmp_path / tokens.FILE).write_bytes(content)
    assert look.find(made.encode()) is None
    for command in (lambda: tokens.every(tmp_path), lambda: tokens.add(tmp_path, "b", "read")):
        with pytest.raises(ConfigError, match=r"tokens\.json"):
            command()


def test_a_role_that_nobody_knows_lets_nobody_in(tmp_path: Path) -> None:
    made = tokens.add(tmp_path, "ci", "admin")
    path = tmp_path / tokens.FILE
    path.write_text(path.read_text().replace('"admin"', '"root"'))
    assert Tokens(tmp_path).find(made.encode()) is None


def test_a_file_that_others_can_change_lets_nobody_in(tmp_path: Path) -> None:
    made, look = tokens.add(tmp_path, "ci", "admin"), Tokens(tmp_path)
    assert look.find(made.encode())
    os.chmod(tmp_path / tokens.FILE, 0o620)
    assert look.find(made.encode()) is None
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.every(tmp_path)
