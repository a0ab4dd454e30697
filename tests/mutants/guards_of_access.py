"""The guards of who may ask a daemon, and what."""

from guard import Guard

AUTH, LISTENING, TOKENS = "damad/http/auth.py", "damad/http/listening.py", "damad/tokens.py"

HTTP = "tests/test_http_tokens.py"
KEPT = "tests/test_tokens.py"

TLS = "tests/test_http_tls.py"

MASKED = "tests/test_masking.py"

ACTOR = "tests/test_http_actor.py"

LIMITS = "tests/test_http_limits.py"

RUNS = "tests/test_http_run_tokens.py"

GUARDS = (
    Guard(
        "the token of a run is sealed with the first token",
        TOKENS,
        "return run if hmac.compare_digest(sealed(run, key).encode(), sent) else None",
        "return run",
        (
            f"{RUNS}::test_nobody_makes_one_without_the_first_token",
            f"{KEPT}::test_the_token_of_a_run_says_which_run_it_is_of_and_cannot_be_made_without_the_first_token",
        ),
    ),
    Guard(
        "a run may do nothing but append to its own context",
        AUTH,
        "if not (own and asked.handler in request.app[OF_RUNS]):",
        "if False:",
        (f"{RUNS}::test_a_run_may_do_nothing_else",),
    ),
    Guard(
        "what comes with the token of a run bears its fence",
        "damad/events.py",
        "ctx.fence if ctx.etl_context_id == etl_context_id else None",
        "None",
        (f"{RUNS}::test_its_token_is_of_no_use_once_the_attempt_has_ended",),
    ),
    Guard(
        "a token may not ask more than the rate",
        "damad/http/limits.py",
        "if used + 1 > self._number:",
        "if False:",
        (f"{LIMITS}::test_one_request_too_many_is_429_and_says_how_long_to_wait",),
    ),
    Guard(
        "there are no more connections than there may be",
        LISTENING,
        "if len(self._others) >= self._room:",
        "if False:",
        (f"{LIMITS}::test_where_every_connection_is_at_work_one_more_is_refused_but_for_the_owner",),
    ),
    Guard(
        "who sends an event again may be another",
        "schema/204_as_sent.sql",
        "meta - '{__dama_actor__,traceparent}'::text[]",
        "meta - '{traceparent}'::text[]",
        (
            f"{ACTOR}::test_the_same_event_again_is_the_first_row_whoever_sends_it",
            f"{ACTOR}::test_the_same_task_again_is_the_first_one_whoever_asks_for_it",
        ),
    ),
    Guard(
        "nobody says by themselves who they are",
        "damad/model/event.py",
        "if meta and ACTOR_KEY in meta:",
        "if False:",
        (f"{ACTOR}::test_nobody_says_by_themselves_who_they_are",),
    ),
    Guard(
        "a stream is looked at again",
        AUTH,
        "            request.transport.abort()\n",
        "            pass\n",
        (f"{HTTP}::test_a_stream_ends_once_its_token_is_revoked",),
    ),
    Guard(
        "no event of a failure holds a secret",
        "damad/model/retry.py",
        '{"message": masked(self.message), "traceback": self.traceback and masked(self.traceback)}',
        "{}",
        (f"{MASKED}::test_the_event_of_a_failure_holds_none_in_message_and_traceback",),
    ),
    Guard(
        "no line of the log holds a secret",
        "damad/stderrlog.py",
        "masked(super().format(record))",
        "super().format(record)",
        (f"{MASKED}::test_the_log_holds_none_in_messages_values_and_tracebacks",),
    ),
    Guard(
        "no address but loopback is listened on without TLS",
        "damad/http/tls.py",
        "settings.tls_cert is None and not is_loopback(address)",
        "False",
        (f"{TLS}::test_no_address_but_loopback_is_listened_on_without_tls",),
    ),
    Guard(
        "a key that everybody can read is not used",
        "damad/http/tls.py",
        "os.stat(key).st_mode & _READABLE_BY_ALL",
        "False",
        (f"{TLS}::test_a_certificate_that_cannot_be_used_stops_the_start_with_one_line",),
    ),
    Guard(
        "a token may do no more than its role",
        AUTH,
        "request.match_info.http_exception is None and not token.may(role)",
        "False",
        (f"{HTTP}::test_a_token_may_ask_each_route_that_its_role_is_enough_for_and_no_other",),
    ),
    Guard(
        "a token of a pg_env opens no other",
        AUTH,
        "token.pg_env is not None and token.pg_env != pg_env",
        "False",
        (f"{HTTP}::test_a_token_of_a_pg_env_is_good_for_nothing_else",),
    ),
    Guard(
        "a token with a name is looked at with each request",
        AUTH,
        "else _check_may(request, token)\n        return token\n",
        "else _check_may(request, token)\n",
        (f"{HTTP}::test_a_token_is_dead_with_the_next_request_once_it_is_revoked",),
    ),
    Guard(
        "only the owner and root need no token on the socket",
        LISTENING,
        "self.uid in (os.geteuid(), 0)",
        "self.uid is not None",
        (f"{HTTP}::test_another_user_who_can_open_the_socket_needs_a_token",),
    ),
    Guard(
        "who makes a token waits for who makes another",
        TOKENS,
        "        fcntl.flock(folder, fcntl.LOCK_EX)\n",
        "",
        (f"{KEPT}::test_of_tokens_that_are_made_at_once_none_is_lost",),
    ),
    Guard(
        "tokens that others can change are not believed",
        TOKENS,
        "if mode & _WRITABLE_BY_OTHERS:",
        "if False:",
        (f"{KEPT}::test_a_file_that_others_can_change_lets_nobody_in",),
    ),
)
