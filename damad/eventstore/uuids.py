"""UUIDs as asyncpg makes and sends them: in C."""

import os
from typing import cast
from uuid import UUID

from asyncpg.pgproto import pgproto


def new_uuid() -> UUID:
    """A random UUID (version 4), as uuid4 draws it, in a third of the time: each event that is appended has one."""
    drawn = bytearray(os.urandom(16))
    drawn[6] = drawn[6] & 0x0F | 0x40
    drawn[8] = drawn[8] & 0x3F | 0x80
    return cast(UUID, pgproto.UUID(bytes(drawn)))
