"""What leaves the log after a while: rules by outcome, queue and age. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from damad import units
from damad.errors import InvalidInput
from damad.model.lifecycle import ENDED
from damad.model.settings import is_name

RULE_SETTINGS: Final = ("state", "queue", "older_than")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Trees whose root ended so (None: in any way) and was of this queue (None: any), `older_than` seconds after their
    last event."""

    older_than: float
    states: tuple[str, ...] | None = None
    queue: str | None = None


def parse_rule(given: Mapping[str, Any]) -> Rule:
    """A rule as people write it: older_than, and state (several with commas between) and queue.

    Raises InvalidInput, whose pointer names the setting. What goes without a trace of its age has to say so: older_than
    has no default.
    """
    if "older_than" not in given:
        raise InvalidInput("says how old what goes has to be, like 90d; it has no default", pointer="/older_than")
    state, queue = given.get("state"), given.get("queue")
    states = None if state is None else tuple(str(state).split(","))
    if not set(states or ()) <= ENDED:
        raise InvalidInput(f"{state!r} is none of {', '.join(sorted(ENDED))}", pointer="/state")
    if queue is not None and not (isinstance(queue, str) and is_name(queue)):
        raise InvalidInput(f"{queue!r} is no name of a queue", pointer="/queue")
    return Rule(older_than=units.duration(given["older_than"], pointer="/older_than"), states=states, queue=queue)
