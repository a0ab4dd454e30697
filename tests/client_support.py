"""Clients of a server, and of one behind a proxy that loses answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio
from http_support import PG_ENV, TOKEN, House
from resetting_proxy import ResettingProxy, resetting

from damad.client import Client


@asynccontextmanager
async def client_of(address: str | Path, *, token: str | None = TOKEN, **given: Any) -> AsyncIterator[Client]:
    async with Client(address, token=token, pg_env=PG_ENV, **given) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def damad(house: House) -> AsyncIterator[Client]:
    async with client_of(house.addresses.url) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def cut(house: House) -> AsyncIterator[tuple[ResettingProxy, Client]]:
    """A proxy that loses answers, and a client behind it."""
    async with resetting(house.addresses.port) as (proxy, address), client_of(address) as client:
        yield proxy, client
