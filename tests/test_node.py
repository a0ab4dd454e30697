"""Workers in JavaScript: what becomes of what `main` does is what becomes of it in Python. A real daemon runs each case
on a real Node.js."""

import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site
from node_support import MAX_BODY, daemon_with_node, needs_node, run_file, run_main
from worker_support import Outcome

pytestmark = needs_node
OWN_FINAL = 'await damad.dispatch({ type: "own:FINAL", payload: { mine: 1 } });'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """One daemon for all."""
    async with daemon_with_node(tmp_path_factory.mktemp("node"), template) as daemon:
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


def assert_failed(outcome: Outcome, kind: str, exit_code: int | None, signal: int | None = None) -> dict:
    error = outcome.error
    assert (error["kind"], error["exit_code"], error["signal"]) == (kind, exit_code, signal), error
    assert error["attempt"] == outcome.task.attempt == 1
    assert error["message"]
    return error


# --- the file ---


@pytest.mark.parametrize(
    ("suffix", "source"),
    [
        (".mjs", "export default async (event) => ({ n: event.payload });"),
        (".mjs", "const main = (event) => ({ n: event.payload });\nexport { main as default };"),
        (".js", "export default function main(event) { return { n: event.payload }; }"),
        (".js", "module.exports = (event) => ({ n: event.payload });"),
        (".js", "exports.__esModule = true;\nexports.default = async (event) => ({ n: event.payload });"),
        (
            ".ts",
            "type Event = { payload: number };\nexport default (event: Event) => ({ n: event.payload as number });",
        ),
    ],
    ids=["async", "sync", "js", "CommonJS", "compiled", "TypeScript"],
)
async def test_each_language_and_way_to_export_runs(site: Site, suffix: str, source: str) -> None:
    assert (await run_file(site, source, suffix, 7)).result == {"n": 7}


@pytest.mark.parametrize(
    ("suffix", "source", "message"),
    [
        (".mjs", "export default function main( {", "SyntaxError"),
        (".mjs", "import 'nowhere-to-be-found';", "nowhere-to-be-found"),
        (".mjs", "export const main = () => ({});", "exports no default function"),
        (".mjs", "export default 7;", "exports no default function"),
        (".js", "module.exports = { main() {} };", "exports no default function"),
        (".mjs", "throw new RangeError('far away');", "RangeError: far away"),
        (".mjs", "process.exit(3);", "exit code 3"),
        (".mjs", "await new Promise(() => {});\nexport default () => ({});", "nothing is left"),
        (".ts", "enum Sort { one }\nexport default () => ({});", "enum"),
    ],
)
async def test_a_file_that_cannot_be_loaded_fails_with_104(site: Site, suffix: str, source: str, message: str) -> None:
    assert message in assert_failed(await run_file(site, source, suffix), "load", 104)["message"]


async def test_the_worker_of_the_guide_runs(site: Site) -> None:
    guide = (Path(__file__).parent.parent / "docs/workers.md").read_text()
    (source,) = re.findall(r"```js\n(.*?)```", guide, re.S)
    outcome = await run_file(site, source, ".mjs", {"name": "world"})
    assert outcome.result == {"greeting": "hello world"}
    assert [event.type for event in outcome.events[-2:]] == ["hello:BEGUN", ":FINAL"]


async def test_a_worker_imports_what_lies_beside_it(site: Site) -> None:
    site.worker("export const two = 2;", "beside.mjs")
    assert (await run_file(site, "import { two } from './beside.mjs';\nexport default () => ({ two });")).result == {
        "two": 2
    }


# --- returns ---


@pytest.mark.parametrize("form", ["function", "async function"])
async def test_a_final_event_is_appended_as_it_is(site: Site, form: str) -> None:
    outcome = await run_main(site, "return { type: 'gtfs:FINAL', payload: [1], meta: { m: 2 } };", form)
    assert (outcome.final.type, outcome.final.payload, outcome.final.meta) == ("gtfs:FINAL", [1], {"m": 2})
    assert [event.type for event in outcome.events] == [
        ":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", "gtfs:FINAL",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        ("{}", {}),
        ("{ n: 1, deep: [null, true, { text: 'Grüße 😀' }] }", {"n": 1, "deep": [None, True, {"text": "Grüße 😀"}]}),
        ("{ type: 'FeatureCollection', features: [] }", {"type": "FeatureCollection", "features": []}),
        ("{ large: 1e20, larger: 2 ** 63, largest: 1e300, small: -0.5 }",
         {"large": 1e20, "larger": 2.0**63, "largest": 1e300, "small": -0.5}),
        ("{ at: new Date(0), left: undefined }", {"at": "1970-01-01T00:00:00.000Z"}),
    ],
)  # fmt: skip
async def test_any_other_object_is_the_payload_of_a_final_event(site: Site, value: str, payload: dict) -> None:
    outcome = await run_main(site, f"return {value};")
    assert (outcome.final.type, outcome.final.payload) == (":FINAL", payload)


@pytest.mark.parametrize("value", ["undefined", "null", "[]", "'text'", "1", "{ type: 'gtfs:LOADED' }"])
async def test_without_a_final_the_attempt_failed_with_102(site: Site, value: str) -> None:
    assert_failed(await run_main(site, f"return {value};"), "no_final", 102)


@pytest.mark.parametrize(
    "value",
    [
        "{ n: NaN }",
        "{ n: [Infinity] }",
        "{ n: Buffer.from('bytes') }",
        "{ n: new Uint8Array(3) }",
        "{ n: new Set([1]) }",
        "{ n: [undefined] }",
        "{ n: 10n }",
        "{ n: new Date('never') }",
        "{ get n() { throw new Error('mine'); } }",
        "{ n: () => 1 }",
        "{ n: 'a\\0b' }",
        "{ n: '\\ud800' }",
        "{ type: ':FINAL', payload: NaN }",
        "{ type: 'dama/task:FINAL' }",
        f"{{ n: 'x'.repeat({MAX_BODY}) }}",
        "(() => { const a = {}; a.a = a; return a; })()",
        "Array.from({ length: 100 }).reduce((inner) => ({ inner }), {})",
    ],
)
async def test_what_json_cannot_hold_is_a_bad_result(site: Site, value: str) -> None:
    assert_failed(await run_main(site, f"return {value};"), "bad_result", 102)


async def test_a_result_of_just_the_largest_size_is_taken(site: Site) -> None:
    frame = len('{"type":":FINAL","payload":{"n":""}}')
    outcome = await run_main(site, f"return {{ n: 'x'.repeat({MAX_BODY - frame}) }};")
    assert len(outcome.result["n"]) == MAX_BODY - frame


# --- throws and ends ---


@pytest.mark.parametrize(
    ("statement", "type_", "message"),
    [
        ("throw new TypeError('seven is too much');", "TypeError", "TypeError: seven is too much"),
        ("throw 'a word';", "a string", "a word"),
        ("throw null;", "a object", "null"),
        ("await Promise.any([Promise.reject(new Error('left')), Promise.reject(new Error('right'))]);",
         "AggregateError", "All promises were rejected"),
        ("setTimeout(() => { throw new Error('later'); }); await new Promise((go) => setTimeout(go, 1e6));",
         "Error", "later"),
        ("Promise.reject(new Error('nobody waits')); await new Promise((go) => setTimeout(go, 1e6));",
         "Error", "nobody waits"),
        ("await new Promise(() => {});", "Error", "nothing is left that could settle"),
        ("throw new Error('\\0 and \\ud800');", "Error", "and"),
        ("throw new Error('x'.repeat(50_000_000));", "Error", "xxx"),
    ],
)  # fmt: skip
async def test_whatever_is_thrown_fails_the_attempt_with_101(
    site: Site, statement: str, type_: str, message: str
) -> None:
    error = assert_failed(await run_main(site, statement), "exception", 101)
    assert error["type"] == type_
    assert message in error["message"]


async def test_a_stack_names_the_workers_line_and_nothing_of_damad(site: Site) -> None:
    outcome = await run_main(site, "const cause = new Error('why');\nthrow new Error('what', { cause });")
    assert "worker_" in outcome.error["traceback"]
    assert "Error: why" in outcome.error["traceback"]
    assert "node_shim" not in outcome.error["traceback"]
    assert "Error: what" in await site.log(outcome.id)


async def test_a_worker_says_whether_and_when_to_try_again(site: Site) -> None:
    outcome = await run_main(site, "throw damad.noRetry('no use');", retry_limit=5)
    assert (outcome.task.attempt, outcome.error["message"]) == (1, "NoRetry: no use")
    body = "if (damad.context.attempt === 1) throw damad.retryIn(0.01);\nreturn { attempt: damad.context.attempt };"
    assert (await run_main(site, body, retry_limit=1, retry_delay=3600)).result == {"attempt": 2}


async def test_an_error_whose_name_is_in_no_retry_fails_the_task_at_once(site: Site) -> None:
    outcome = await run_main(site, "null.name;", retry_limit=5, no_retry=["TypeError"])
    assert (outcome.task.attempt, outcome.error["type"]) == (1, "TypeError")


async def test_a_worker_that_snoozes_did_not_fail(site: Site) -> None:
    runs = "(await damad.read()).filter(event => event.type === 'dama/task:STARTED').length"
    body = f"if ({runs} < 2) throw damad.snooze(0.01);\nreturn {{ attempt: damad.context.attempt }};"
    outcome = await run_main(site, body, retry_limit=0)
    assert (outcome.result, await site.errors(outcome.id)) == ({"attempt": 1}, [])


@pytest.mark.parametrize("code", [0, 1, 7])
async def test_an_exit_without_a_word_is_of_kind_exit_with_its_code(site: Site, code: int) -> None:
    assert_failed(await run_main(site, f"process.exit({code});"), "exit", code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
async def test_a_signal_is_of_kind_signal_with_its_number(site: Site, number: int) -> None:
    body = f"process.kill(process.pid, {number}); await new Promise((go) => setTimeout(go, 1e6));"
    assert_failed(await run_main(site, body), "signal", None, number)


async def test_a_worker_that_promised_to_beat_can_and_is_ended_where_it_is_silent(site: Site) -> None:
    assert (await run_main(site, "await damad.heartbeat(); return {};", heartbeat=3600)).result == {}
    silent = "await new Promise((go) => setTimeout(go, 1e6));"
    assert (await run_main(site, silent, heartbeat=1)).error["kind"] == "timeout"


# --- what a worker is given ---


async def test_events_stand_in_the_log_as_they_were_dispatched_and_can_be_read(site: Site) -> None:
    body = """
        const said = ["a", "b", "c"].map((word) => damad.dispatch({ type: "x:SAID", payload: { word } }));
        const [first] = await Promise.all(said);
        await damad.progress(0.5, "half");
        await damad.heartbeat();
        const words = (await damad.read()).filter((e) => e.type === "x:SAID").map((e) => e.payload.word);
        return { words, first: first.version };
    """
    outcome = await run_main(site, body)
    assert outcome.result == {"words": ["a", "b", "c"], "first": 4}
    assert outcome.task.progress["fraction"] == 0.5


async def test_what_is_dispatched_and_not_awaited_stands_before_the_final(site: Site) -> None:
    outcome = await run_main(site, "damad.dispatch({ type: 'x:SAID' });\nreturn {};")
    assert [event.type for event in outcome.events[-2:]] == ["x:SAID", ":FINAL"]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("{ type: 'lower' }", "InvalidInput"),
        ("{ type: 'dama/task:FAILED' }", "InvalidInput"),
        ("{ type: ':INITIAL' }", "IllegalTransition"),
        ("{ type: 'x:SAID', payload: NaN }", "TypeError"),
        ("7", "InvalidInput"),
    ],
)
async def test_an_event_that_is_refused_rejects_the_call_by_the_name_of_the_error(
    site: Site, event: str, name: str
) -> None:
    body = f"try {{ await damad.dispatch({event}); }} catch (error) {{ return {{ name: error.name }}; }}"
    assert (await run_main(site, body)).result == {"name": name}


@pytest.mark.parametrize("then", ["return;", "return { a: 1 };", "throw new Error('late');", "process.exit(7);"])
async def test_after_its_own_final_the_task_is_done_whatever_follows(site: Site, then: str) -> None:
    outcome = await run_main(site, f"{OWN_FINAL}\n{then}")
    assert (outcome.final.type, outcome.result) == ("own:FINAL", {"mine": 1})


async def test_the_environment_and_the_context_say_where_it_runs(site: Site) -> None:
    body = """
        const { AVAIL_DAMA_PG_ENV, AVAIL_DAMA_ETL_CONTEXT_ID, ...rest } = process.env;
        const damads = Object.keys(rest).filter((name) => name.startsWith("DAMAD_"));
        return { AVAIL_DAMA_PG_ENV, AVAIL_DAMA_ETL_CONTEXT_ID, damads, context: damad.context, dsn: damad.dsn,
                 ppid: process.ppid, initial: event, words: process.argv.length, options: process.execArgv };
    """
    outcome = await run_main(site, body, payload={"p": 1})
    said, id_ = outcome.result, outcome.id
    assert (said["AVAIL_DAMA_PG_ENV"], said["AVAIL_DAMA_ETL_CONTEXT_ID"], said["damads"]) == (
        "local", str(id_), ["DAMAD_ATTEMPT"],
    )  # fmt: skip
    assert said["context"] == {
        "pg_env": "local", "etl_context_id": id_, "parent_context_id": None, "attempt": 1, "work_dir": None,
    }  # fmt: skip
    assert said["dsn"] == site.databases["local"].dsn
    assert said["ppid"] == outcome.events[2].payload["pid"]
    assert said["initial"] == json.loads(json.dumps(outcome.events[0].as_dict()))
    assert (said["words"], said["options"]) == (2, [])


async def test_what_it_prints_is_in_the_attempts_log_in_the_order_it_came(site: Site) -> None:
    outcome = await run_main(
        site, "console.log('one'); console.error('two'); process.stdout.write('three\\n'); return {};"
    )
    assert await site.log(outcome.id) == "one\ntwo\nthree\n"
