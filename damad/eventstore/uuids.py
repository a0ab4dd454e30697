"""UUIDs of events, as asyncpg makes and sends them: in C."""

import os
import time
from typing import cast
from uuid import UUID

from asyncpg.pgproto import pgproto


def new_uuid() -> UUID:
    """A UUID that begins with the time (RFC 9562, version 7): milliseconds, and 74 random bits.

    Those of one time lie side by side in the index of the log. Random ones lie in as many pages as they are, and the
    first change of a page after a checkpoint has Postgres write all of it to the WAL.
    """
    drawn = bytearray((time.time_ns() // 1_000_000).to_bytes(6) + os.urandom(10))
    drawn[6] = drawn[6] & 0x0F | 0x70
    drawn[8] = drawn[8] & 0x3F | 0x80
    return cast(UUID, pgproto.UUID(bytes(drawn)))
