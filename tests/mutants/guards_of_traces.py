"""The guards of traces: what is one, and that it changes nothing else."""

from guard import Guard

TRACE = "damad/model/trace.py"
TESTS = "tests/test_tracing.py"

GUARDS = (
    Guard(
        "what is sent again in another trace is the same",
        "schema/204_as_sent.sql",
        "meta - '{__dama_actor__,traceparent}'::text[]",
        "meta - '{__dama_actor__}'::text[]",
        (f"{TESTS}::test_what_is_sent_again_in_another_trace_is_the_same",),
    ),
    Guard(
        "two traceparents are none",
        "damad/http/pg_envs.py",
        " if len(given) == 1 else None",
        "",
        (f"{TESTS}::test_what_is_no_traceparent_is_ignored",),
    ),
    Guard(
        "a trace of zeros is none",
        TRACE,
        ' or _ZEROS.fullmatch(found["trace"])',
        "",
        ("tests/test_trace.py::test_what_is_none_is_ignored",),
    ),
    Guard(
        "spans that were not taken are exported again",
        "damad/spans.py",
        "                said = True\n                await backoff.pause()\n                continue\n",
        "                said = True\n",
        ("tests/test_spans.py::test_a_collector_that_is_away_and_a_restart_make_no_gap",),
    ),
    Guard(
        "the trace of a daemon goes to no worker",
        "damad/config.py",
        ', "TRACEPARENT", "TRACESTATE"',
        "",
        (f"{TESTS}::test_a_task_of_no_trace_has_none_whatever_its_daemon_was_started_in",),
    ),
)
