"""What time it is for the tasks of a pg_env: what its Postgres says, which gives events their time.

The wall clock of this host may be wrong and may jump. It is asked only for how long ago it was something else.
"""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Goes on from what Postgres said last: a little behind it, by as long as that took to arrive.

    back_since: when it was there again, after it had been away.
    """

    def __init__(self) -> None:
        self._is_away = False
        self.back_since: datetime | None = None
        self.set(datetime.now(UTC))

    def away(self) -> None:
        """Postgres is away: until it says something, nobody can."""
        self._is_away = True

    def set(self, said: datetime) -> None:
        """Takes over what Postgres says that the time is."""
        if self._is_away:
            self._is_away, self.back_since = False, said
        self._said, self._heard_at = said, time.monotonic()

    def now(self) -> datetime:
        """The time by the clock of Postgres."""
        return self._said + timedelta(seconds=time.monotonic() - self._heard_at)

    def of_host(self, seconds: float) -> datetime:
        """What the clock of Postgres said when this host's, which is in seconds since the epoch, said that."""
        return self.now() - timedelta(seconds=time.time() - seconds)
