"""damad/eventstore/uuids.py: what is drawn is a UUID like any other."""

from uuid import RFC_4122, UUID

import msgspec

from damad.eventstore.uuids import new_uuid


def test_what_is_drawn_is_a_random_uuid_of_version_4() -> None:
    drawn = [new_uuid() for _ in range(200)]
    assert len(set(drawn)) == len(drawn)
    assert {(one.version, one.variant) for one in drawn} == {(4, RFC_4122)}


def test_it_is_equal_to_the_same_uuid_of_another_make_and_written_alike() -> None:
    drawn = new_uuid()
    same = UUID(str(drawn))
    assert isinstance(drawn, UUID) and drawn == same and hash(drawn) == hash(same)
    assert msgspec.json.encode(drawn) == msgspec.json.encode(same)
