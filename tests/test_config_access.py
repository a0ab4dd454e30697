"""Settings of who may ask over HTTP, as files and the environment give them."""

from pathlib import Path

import pytest

from damad import config
from damad.config import Config, load
from damad.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder; there is no /etc/damad/damad.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc.toml")


def local(text: str) -> None:
    Path("damad.toml").write_text(text)


def loaded(**environ: str) -> Config:
    return load(environ={"HOME": "/home/somebody", **environ})


def test_a_key_without_its_certificate_is_refused() -> None:
    local("tls_key = 'key.pem'")
    with pytest.raises(ConfigError, match=r"damad\.toml: tls_key is set, and tls_cert is not"):
        loaded()
    assert loaded(DAMAD_TLS_CERT="cert.pem").tls_key == Path("key.pem").absolute()


def test_names_of_the_host_are_a_list_with_commas_between_in_the_environment() -> None:
    assert loaded(DAMAD_HOST_NAMES="etl.example,OTHER").host_names == ("etl.example", "other")
    local("host_names = ['a.example', 'b.example']")
    assert loaded().host_names == ("a.example", "b.example")


def test_how_much_may_be_asked_is_a_number_of_connections_and_a_rate() -> None:
    assert (loaded().max_connections, loaded().request_rate) == (1000, None)
    found = loaded(DAMAD_MAX_CONNECTIONS="50", DAMAD_REQUEST_RATE="100/1m")
    assert (found.max_connections, found.request_rate) == (50, (100, 60.0))
    for name, value in (("MAX_CONNECTIONS", "0"), ("MAX_CONNECTIONS", "many"), ("REQUEST_RATE", "fast")):
        with pytest.raises(ConfigError, match=f"DAMAD_{name}: {name.lower()}: "):
            loaded(**{f"DAMAD_{name}": value})


@pytest.mark.parametrize("name", ["https://etl.example", "etl.example:8420", "a b", "é", "[::1]", "*"])
def test_what_is_no_name_of_a_host_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="host_names"):
        loaded(DAMAD_HOST_NAMES=f"etl.example,{name}")
