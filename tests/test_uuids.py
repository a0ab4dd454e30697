"""damad/eventstore/uuids.py: what is drawn is a UUID like any other."""

import time
from uuid import RFC_4122, UUID

import msgspec

from damad.eventstore.pools import Database
from damad.eventstore.uuids import new_uuid


def test_what_is_drawn_is_a_uuid_of_version_7_that_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    drawn = [new_uuid() for _ in range(200)]
    after = time.time_ns() // 1_000_000
    assert len(set(drawn)) == len(drawn)
    assert {(one.version, one.variant) for one in drawn} == {(7, RFC_4122)}
    assert all(before <= one.int >> 80 <= after for one in drawn)


async def test_those_of_claims_are_made_the_same_way(database: Database) -> None:
    async with database.connection() as connection:
        said = await connection.fetchrow(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now, root.uuid AS root, "
            "       ARRAY (SELECT data_manager.nth_uuid(root.uuid, n) FROM generate_series(1, 100) AS n) AS drawn "
            "  FROM (SELECT data_manager.root_uuid() AS uuid) AS root"
        )
    drawn = [UUID(str(one)) for one in said["drawn"]]
    assert len(set(drawn)) == len(drawn) and sorted(drawn, key=str) == drawn
    assert {(one.version, one.variant) for one in drawn} == {(7, RFC_4122)}
    assert all(abs((one.int >> 80) - said["now"]) < 10_000 for one in drawn)


def test_it_is_equal_to_the_same_uuid_of_another_make_and_written_alike() -> None:
    drawn = new_uuid()
    same = UUID(str(drawn))
    assert isinstance(drawn, UUID) and drawn == same and hash(drawn) == hash(same)
    assert msgspec.json.encode(drawn) == msgspec.json.encode(same)
