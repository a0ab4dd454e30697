"""The clock that tasks go by: what Postgres said, going on from there."""

import time
from datetime import UTC, datetime, timedelta

from damad.scheduler.clock import Clock

ELSEWHERE = datetime(2031, 1, 1, tzinfo=UTC)
A_LITTLE = timedelta(minutes=5)
"""No test takes longer, however busy the machine is."""


def test_it_goes_on_from_what_postgres_said_and_never_back() -> None:
    clock = Clock()
    clock.set(ELSEWHERE)
    moments = [clock.now() for _ in range(100)]
    assert moments == sorted(moments)
    assert ELSEWHERE <= moments[0] < ELSEWHERE + A_LITTLE


def test_what_this_hosts_clock_said_an_hour_ago_was_an_hour_ago() -> None:
    clock = Clock()
    clock.set(ELSEWHERE)
    an_hour_ago = clock.of_host(time.time() - 3600)
    assert ELSEWHERE - timedelta(hours=1) - A_LITTLE < an_hour_ago < ELSEWHERE - timedelta(hours=1) + A_LITTLE
