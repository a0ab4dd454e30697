"""The dashboard and the alert rules are of metrics that there are, and each alert fires when it should."""

import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import http_support
import pytest
import yaml
from http_support import House
from prometheus_client.parser import text_string_to_metric_families

house = http_support.house

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())
RULES = yaml.safe_load((DOCS / "alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
_ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


async def test_every_metric_that_they_name_is_there_and_every_one_of_ours_is_on_the_dashboard(house: House) -> None:
    async with house.get("/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    samples = {family.name + ending for family in families for ending in _ENDINGS[family.type]}
    variables = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]
    shown = _metrics(*QUERIES, *variables)
    assert shown | _metrics(*(alert["expr"] for alert in ALERTS)) <= samples
    ours = {family.name for family in families if not family.name.startswith("damad_process_")}
    assert {name for name in ours if not any(metric.startswith(name) for metric in shown)} == set()


def _metrics(*queries: str) -> set[str]:
    return set(re.findall(r"\bdamad_[a-z_]+", " ".join(queries)))


def test_the_panels_have_numbers_titles_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    taken = set()
    for place in (panel["gridPos"] for panel in PANELS):
        x, y = place["x"], place["y"]
        own = set(product(range(x, x + place["w"]), range(y, y + place["h"])))
        assert not own & taken and all(x < 24 for x, _ in own)
        taken |= own


def test_every_alert_is_whole_and_in_the_page_and_no_other() -> None:
    page = (DOCS / "observing.md").read_text()
    assert re.findall(r"^\| `(Damad\w+)` \|", page, re.M) == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert
        assert alert["annotations"]["summary"], alert


# --- where Prometheus' own tool is installed (Debian: prometheus) ---


def promtool(folder: Path, *words: str, **files: Any) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    for name, content in files.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_every_query_of_the_dashboard(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", str(DOCS / "alerts.yml"))
    chosen = {"$__rate_interval": "5m", "$pg_env": ".*", "$queue": ".*"}
    queries = [re.sub(r"\$\w+", lambda name: chosen[name[0]], query) for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    promtool(tmp_path, "check", "rules", "queries.yml", queries={"groups": [{"name": "queries", "rules": rules}]})


QUEUED = 'damad_tasks{pg_env="main",queue="q",state="queued"}'
RUNNING = 'damad_tasks{pg_env="main",queue="q",state="running"}'
DONE, FAILED = ('damad_attempts_total{pg_env="main",outcome="%s"}' % outcome for outcome in ("done", "exit"))  # noqa: UP031
UP = 'damad_pg_env_up{pg_env="main",instance="%s"}'


@pytest.mark.parametrize(
    ("alert", "fires", "series"),
    [
        ("DamadIsAway", True, {QUEUED: "1x60"}),
        ("DamadIsAway", False, {UP % "a": "1x60"}),
        ("DamadPgEnvIsAway", True, {UP % "a": "0x60", UP % "b": "0x60"}),
        ("DamadPgEnvIsAway", False, {UP % "a": "0x60", UP % "b": "1x60"}),
        ("DamadNothingRuns", True, {QUEUED: "3x60"}),
        ("DamadNothingRuns", True, {QUEUED: "3x60", RUNNING: "0x60"}),
        ("DamadNothingRuns", False, {QUEUED: "3x60", RUNNING: "1x60"}),
        ("DamadNothingRuns", False, {QUEUED: "0x60"}),
        ("DamadQueueIsLate", True, {'damad_oldest_queued_seconds{pg_env="main",queue="q"}': "1000x60"}),
        ("DamadQueueIsLate", False, {'damad_oldest_queued_seconds{pg_env="main",queue="q"}': "800x60"}),
        ("DamadAttemptsFail", True, {DONE: "0+1x60", FAILED: "0+2x60"}),
        ("DamadAttemptsFail", False, {DONE: "0+2x60", FAILED: "0+1x60"}),
        ("DamadAttemptsFail", False, {DONE: "5x60", FAILED: "5x60"}),
        ("DamadProcessesDie", True, {'damad_attempts_total{pg_env="main",outcome="oom"}': "0x55 1x5"}),
        ("DamadProcessesDie", False, {'damad_attempts_total{pg_env="main",outcome="exit"}': "0x55 1x5"}),
        ("DamadListenerIsDeaf", True, {'damad_listener_hears{pg_env="main"}': "0x60"}),
        ("DamadFeedReaderIsBehind", True, {'damad_feed_lag_events{pg_env="main"}': "20000x60"}),
        ("DamadLoopIsLate", True, {'damad_loop_lag_seconds{instance="a"}': "1.5x60"}),
        ("DamadFilesRunOut", True, {"damad_process_open_fds": "95x60", "damad_process_max_fds": "100x60"}),
        ("DamadFilesRunOut", False, {"damad_process_open_fds": "80x60", "damad_process_max_fds": "100x60"}),
    ],
)  # fmt: skip
def test_an_alert_fires_when_it_should(tmp_path: Path, alert: str, fires: bool, series: dict[str, str]) -> None:
    given = [{"series": name, "values": values} for name, values in series.items()]
    query = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    expected = {"expr": query, "eval_time": "60m", "exp_samples": [{"labels": "{}", "value": float(fires)}]}
    case = {"interval": "1m", "input_series": given, "promql_expr_test": [expected]}
    promtool(tmp_path, "test", "rules", "cases.yml", cases={"rule_files": [str(DOCS / "alerts.yml")], "tests": [case]})
