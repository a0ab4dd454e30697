"""The guards of what is read live."""

from guard import Guard

HEAD = "tests/test_http_head.py"

GUARDS = (
    Guard(
        "who joins the readers of the feed is not ahead of them",
        "damad/http/head.py",
        "        wanted = self._begun + 1\n",
        "        wanted = 1\n",
        (f"{HEAD}::test_who_comes_with_a_cursor_that_is_ahead_of_the_last_look_sees_nothing_again",),
    ),
    Guard(
        "a reader that takes nothing is cut",
        "damad/http/sse.py",
        "async with asyncio.timeout(SEND_TIMEOUT) as patience:",
        "async with asyncio.timeout(None) as patience:",
        (f"{HEAD}::test_a_reader_that_is_cut_is_told_so_behind_what_it_had_been_sent",),
    ),
    Guard(
        "who may have to wait for a reader waits within its time",
        "damad/http/sse.py",
        "return transport.get_write_buffer_size() + len(messages) + _FRAMING <= low",
        "return True",
        (f"{HEAD}::test_a_reader_that_is_cut_is_told_so_behind_what_it_had_been_sent",),
    ),
)
