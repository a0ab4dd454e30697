"""Secrets that are taken out of texts, and texts that are left as they are."""

import json
import logging

import pytest
import structlog

from damad import stderrlog
from damad.masking import masked
from damad.model.retry import Failure

SECRET = "hunter2-Zx9"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"password = {SECRET}",
        f"PASSWORD: {SECRET}",
        f"PGPASSWORD={SECRET} psql",
        f"db_password='{SECRET}'",
        f'{{"password": "{SECRET}", "user": "etl"}}',
        f"{{'password': '{SECRET}'}}",
        json.dumps(json.dumps({"password": SECRET})),
        json.dumps(json.dumps(json.dumps({"api_token": SECRET}))),
        f"token={SECRET}&next=1",
        f"https://api.example/x?access_token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f"('authorization', '{SECRET}') in {{'authorization': b'{SECRET}'}}".partition(" in ")[2],
        f"dsn=postgresql://etl@db/{SECRET}",
        f"dsn: 'host=db user=etl password={SECRET} dbname=x'",
        f"host=db user=etl password={SECRET} dbname=x",
        f"could not connect to postgresql://etl:{SECRET}@db.example:5432/transit",
        f"postgresql://:{SECRET}@db/x",
        f"amqps://etl:{SECRET}@mq and redis://x:{SECRET}@r:6379/0",
        f"ValueError: Password => {SECRET}",
        f"connect(password='{SECRET}', token={SECRET!r})",
        f'    password = "{SECRET}"  # line of a traceback',
        f'if token == "{SECRET}":',
        f'"token": "{SECRET} with \' a quote"',
        f"connect(password='{SECRET}",
    ],
)
def test_a_secret_is_taken_out(text: str) -> None:
    assert SECRET in text
    assert SECRET not in masked(text) and "***" in masked(text)


def test_what_stands_around_it_stays() -> None:
    url = f"cannot reach postgresql://etl:{SECRET}@db.example:5432/transit?sslmode=require: refused"
    assert masked(url) == "cannot reach postgresql://etl:***@db.example:5432/transit?sslmode=require: refused"
    assert masked(f"GET /x?token={SECRET}&page=2") == "GET /x?token=***&page=2"
    assert masked(f"Authorization: Bearer {SECRET}\nAccept: */*") == "Authorization: Bearer ***\nAccept: */*"
    assert masked(f'{{"password": "{SECRET}", "user": "etl"}}') == '{"password": "***", "user": "etl"}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing of the kind",
        "SyntaxError: Unexpected token '}' in JSON at position 5",
        "there is no token 'ci'; `damad tokens` lists them",
        "3 tokens: a, b, c",
        "http://127.0.0.1:8420/docs and mail@example.org",
        "postgresql://etl@db.example:5432/transit",
        "the password is wrong",
        'File "/x/tokens.py", line 3, in next_token',
        "password=*** was masked already",
    ],
)
def test_what_holds_none_is_left_as_it_is(text: str) -> None:
    assert masked(text) == text
    assert masked(masked(text)) == masked(text)


def test_the_event_of_a_failure_holds_none_in_message_and_traceback() -> None:
    trace = f'Traceback\n  connect("postgresql://etl:{SECRET}@db/x")\nOSError: password={SECRET}'
    failure = Failure(attempt=1, kind="exception", message=f"OSError: password={SECRET}", traceback=trace)
    assert SECRET not in str(failure.payload())
    assert failure.payload()["message"] == "OSError: password=***"


def test_the_log_holds_none_in_messages_values_and_tracebacks(capfd: pytest.CaptureFixture[str]) -> None:
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    try:
        stderrlog.configure(logging.INFO)
        structlog.get_logger().info("structured", dsn=f"postgresql://etl:{SECRET}@db/x", other=f"token={SECRET}")
        logging.getLogger("some.library").warning("plain: password=%s", SECRET)
        try:
            raise OSError(f"authorization: {SECRET}")
        except OSError:
            logging.getLogger("damad.x").exception("broken by %s", f"://etl:{SECRET}@db")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    said = capfd.readouterr().err
    assert SECRET not in said
    assert all(
        word in said for word in ("structured", "plain: password=***", "broken by", "OSError: authorization: ***")
    )
