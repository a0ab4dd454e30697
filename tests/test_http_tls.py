"""TLS: the port from elsewhere than this machine, and what stops the start."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from http_support import SOON, TOKEN, refusal, running
from tls_support import CERTIFICATE, ENCRYPTED_KEY, KEY, trusting, written

from damad.config import Config
from damad.errors import ConfigError
from damad.http import tls
from damad.http.listening import taken


async def starts(settings: Config) -> None:
    async with taken(settings):
        pass


async def refused(settings: Config) -> str:
    """Why a server with these settings does not start, in one line."""
    with pytest.raises(ConfigError) as refused:
        await starts(settings)
    assert "\n" not in str(refused.value)
    assert not (settings.state_dir / "damad.sock").exists()
    return str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_no_address_but_loopback_is_listened_on_without_tls(tmp_path: Path, host: str) -> None:
    said = await refused(Config(state_dir=tmp_path / "state", port=0, host=host))
    assert host in said and "tls_cert and tls_key" in said and "127.0.0.1" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
async def test_loopback_needs_no_tls(tmp_path: Path, host: str) -> None:
    await starts(Config(state_dir=tmp_path / "state", port=0, host=host))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False),
        ("::", False), ("::ffff:10.0.0.1", False), ("10.0.0.1", False), ("169.254.0.1", False), ("fe80::1%eth0", False),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_can_reach(address: str, loopback: bool) -> None:
    assert tls.is_loopback(address) == loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_with_tls_any_address_answers_who_trusts_the_certificate_and_has_the_token(
    dsn: str, tmp_path: Path, host: str
) -> None:
    async with running(tmp_path, dsn, host=host, **written(tmp_path)) as house:
        assert house.addresses.url.startswith(f"https://{host}:")
        url = f"https://127.0.0.1:{house.addresses.port}/v1/main/tasks"
        async with aiohttp.ClientSession() as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with client.get(url, ssl=trusting(), headers=headers) as response:
                assert response.status == 200
            async with client.get(url, ssl=trusting()) as response:
                await refusal(response, 401, "unauthorized")
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client.get(url, headers=headers)


async def test_what_is_no_tls_gets_no_answer_and_leaves_no_traceback(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(tmp_path, dsn, **written(tmp_path)) as house:
        reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(SOON):
            with suppress(ConnectionResetError):
                assert b"HTTP/1.1" not in await reader.read()
        writer.close()
        address = f"https://localhost:{house.addresses.port}/healthz"
        async with aiohttp.ClientSession() as client, client.get(address, ssl=trusting()) as response:
            assert response.status == 200
    assert [record for record in caplog.records if record.exc_info] == []


async def test_who_does_not_come_to_an_end_with_the_handshake_is_cut(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, body_timeout=0.2, **written(tmp_path)) as house:
        reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
        async with asyncio.timeout(SOON):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_host_is_known_by_the_names_that_are_set_for_it_and_by_no_other(dsn: str, tmp_path: Path) -> None:
    async with running(tmp_path, dsn, host_names=("etl.example",), **written(tmp_path)) as house:
        url = f"https://localhost:{house.addresses.port}/healthz"
        async with aiohttp.ClientSession() as client:
            for host, status in (("etl.example", 200), ("ETL.example:8420", 200), ("x.etl.example", 421)):
                async with client.get(url, ssl=trusting(), headers={"Host": host}) as response:
                    assert response.status == status, host
            page = {"Host": "etl.example", "Origin": "https://etl.example"}
            for sent, status in ((page, 200), (page | {"Origin": "https://evil.example"}, 403)):
                async with client.get(url, ssl=trusting(), headers=sent) as response:
                    assert response.status == status, sent


async def test_the_key_may_lie_beside_its_certificate_in_one_file(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_text(KEY + CERTIFICATE)
    await starts(Config(state_dir=tmp_path / "state", port=0, host="0.0.0.0", tls_cert=both))


@pytest.mark.parametrize(
    ("cert", "key", "mode", "says"),
    [
        (None, KEY, 0o600, "cert.pem: No such file"),
        (CERTIFICATE, None, 0o600, "key.pem: No such file"),
        ("", KEY, 0o600, "no certificate and its key"),
        ("nonsense", KEY, 0o600, "no certificate and its key"),
        (CERTIFICATE, "nonsense", 0o600, "no certificate and its key"),
        (KEY, CERTIFICATE, 0o600, "no certificate and its key"),
        (CERTIFICATE, ENCRYPTED_KEY, 0o600, "is encrypted"),
        (CERTIFICATE, KEY, 0o644, "everybody can read the key"),
    ],
)
async def test_a_certificate_that_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, cert: str | None, key: str | None, mode: int, says: str
) -> None:
    settings = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    for path, content in zip(settings.values(), (cert, key), strict=True):
        if content is not None:
            path.write_text(content)
            path.chmod(mode)
    said = await refused(Config(state_dir=tmp_path / "state", port=0, **settings))
    assert says in said and "tls_" in said, said
