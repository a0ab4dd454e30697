"""What can be asked of a daemon."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import msgspec

from damad import config
from damad.client.calls import Calls, Query
from damad.client.following import Following
from damad.errors import TaskCancelled, TaskFailed
from damad.model.event import RecordedEvent

_POLL: Final = 30.0
"""Seconds that the daemon is asked to wait for an end at a time: so often a connection that is dead is noticed."""
_PAGE: Final = "1000"


class _Page(msgspec.Struct):
    items: list[RecordedEvent]
    next: str | None


class _End(msgspec.Struct):
    state: str
    event: RecordedEvent | None = None


class Client:
    """A client of one daemon, for one pg_env, open inside `async with`. Any number of its calls may wait at a time.

    address: `http://…`, `https://…` or the path of a daemon's Unix socket; without one, the socket in the state folder
    that is configured here · token: what TCP asks for · patience: seconds for which a daemon may be away before a call
    gives up, None for ever · tls: for a certificate that this machine does not know by itself.
    """

    def __init__(
        self,
        address: str | Path | None = None,
        *,
        token: str | None = None,
        pg_env: str = config.EMBEDDED,
        patience: float | None = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        at = config.load().state_dir / "damad.sock" if address is None else address
        self._calls = Calls(at, token=token, pg_env=pg_env, patience=patience, tls=tls)

    async def __aenter__(self) -> Self:
        await self._calls.open()
        return self

    async def __aexit__(
        self, sort: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.close()

    async def queue(self, worker: str, payload: Any = None, **given: Any) -> int:
        """Queues a task and returns its etl_context_id. `given`: task settings, and the other fields of POST /tasks.

        One without an `idempotency_key` gets one, so that it is queued once however often it is sent.
        Raises InvalidInput and InvalidWorker, which say what does not fit, and Unavailable.
        """
        body = {"worker": worker, "payload": payload, "idempotency_key": str(uuid4()), **given}
        if "initial_event" in given:
            del body["payload"]
        _, answer = await self._calls.call("POST", "/tasks", body=body)
        id_: int = msgspec.json.decode(answer)["etl_context_id"]
        return id_

    async def wait(self, etl_context_id: int, *, timeout: float | None = None) -> RecordedEvent:
        """The :FINAL event of a context, once it is there.

        Raises TaskFailed or TaskCancelled where the task ended so, NotFound, and TimeoutError after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while (end := await self._end(etl_context_id)).event is None:
                pass
            if end.state == "failed":
                raise await self._failure(end.event)
        if end.state == "cancelled":
            event = msgspec.to_builtins(end.event)
            raise TaskCancelled(f"task {etl_context_id} was cancelled", etl_context_id=etl_context_id, event=event)
        return end.event

    async def append(
        self, etl_context_id: int, *new: Mapping[str, Any], expected_version: int | None = None
    ) -> list[RecordedEvent]:
        """Appends events, `{type, payload, meta, error, event_uuid}`, all or none, and returns them as recorded.

        One without an `event_uuid` gets one, so that it is recorded once however often it is sent.
        `expected_version`: of the context before the first. Raises InvalidInput, NotFound, Conflict, Unavailable.
        """
        events = [{"event_uuid": str(uuid4()), **event} for event in new]
        if events and expected_version is not None:
            events[0]["expected_version"] = expected_version
        body = events[0] if len(events) == 1 else events
        _, answer = await self._calls.call("POST", f"/contexts/{etl_context_id}/events", body=body)
        if len(events) == 1:
            return [msgspec.json.decode(answer, type=RecordedEvent)]
        return msgspec.json.decode(answer, type=list[RecordedEvent])

    async def read(
        self, etl_context_id: int, *, after_version: int = 0, types: Sequence[str] = (), tree: bool = False
    ) -> list[RecordedEvent]:
        """The events of a context after a version, or of its whole tree, of some types if they are named."""
        query = _which(after_version, types, tree)
        found: list[RecordedEvent] = []
        cursor: Query = ()
        while True:
            _, answer = await self._calls.call(
                "GET", f"/contexts/{etl_context_id}/events", query=[*query, ("limit", _PAGE), *cursor]
            )
            page = msgspec.json.decode(answer, type=_Page)
            found += page.items
            if page.next is None:
                return found
            query = _which(0, types, tree)  # from here on the cursor says where
            cursor = (("cursor", page.next),)

    def follow(
        self,
        etl_context_id: int | None = None,
        *,
        cursor: str | None = None,
        after_version: int = 0,
        types: Sequence[str] = (),
        tree: bool = False,
    ) -> Following:
        """The events of a context, or of its tree, or of all contexts: those that are there, then each new one.

        It reconnects by itself; none is skipped and none is given twice. `cursor`: that of a Following before it.
        """
        if etl_context_id is None:
            return Following(self._calls, "/events", (), cursor)
        query = _which(0 if cursor else after_version, types, tree)
        return Following(self._calls, f"/contexts/{etl_context_id}/events", query, cursor)

    async def _end(self, etl_context_id: int) -> _End:
        query = (("timeout", f"{_POLL:g}s"),)
        _, answer = await self._calls.call("GET", f"/contexts/{etl_context_id}/final", query=query, lasts=_POLL)
        return msgspec.json.decode(answer, type=_End)

    async def _failure(self, event: RecordedEvent) -> TaskFailed:
        id_ = event.etl_context_id
        _, answer = await self._calls.call("GET", f"/contexts/{id_}")
        error = msgspec.json.decode(answer).get("error") or {}
        why = f" ({error.get('kind')}): {error.get('message')}" if error else ""
        return TaskFailed(f"task {id_} failed{why}", etl_context_id=id_, event=msgspec.to_builtins(event), error=error)


def _which(after_version: int, types: Sequence[str], tree: bool) -> Query:
    query = [("type", type_) for type_ in types]
    query += [("after_version", str(after_version))] if after_version else []
    return query + ([("tree", "true")] if tree else [])
