"""A client of a daemon, for async programs: queue, wait, append, read, follow.

It speaks HTTP and holds no rule of damad's; what is refused there is raised here by the same classes (damad/errors.py).
Every call may be sent again until it is answered, because what names it (an event_uuid, an idempotency_key) is drawn
once, before the first try: whoever lost the answer gets the first one's.

    async with Client() as damad:                                   # the daemon of this machine, by its Unix socket
    async with Client("https://etl.example:8420", token=…) as damad:
        id_ = await damad.queue("hello.py", {"name": "world"})
        print((await damad.wait(id_)).payload)
"""

from damad.client.calls import Refused
from damad.client.client import Client
from damad.client.following import Following

__all__ = ["Client", "Following", "Refused"]
