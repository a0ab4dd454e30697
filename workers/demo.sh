#!/usr/bin/env bash
# The main job on real input, from nothing: a daemon with a Postgres of its own loads the timetable of Cairns, its
# events are shown as they come, and a second worker sums up what was loaded. Everything is stopped and removed again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

DAMAD_STATE_DIR=$(mktemp -d)
export DAMAD_STATE_DIR DAMAD_WORKER_ROOTS=$PWD/workers
unset "${!DAMAD_PG_ENV_@}"
trap 'kill "$daemon" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$DAMAD_STATE_DIR"' EXIT

say '$ damad serve'
mkfifo "$DAMAD_STATE_DIR/ready"
damad serve --port 0 >"$DAMAD_STATE_DIR/ready" 2>"$DAMAD_STATE_DIR/serve.log" &
daemon=$!
read -r line <"$DAMAD_STATE_DIR/ready" || { cat "$DAMAD_STATE_DIR/serve.log"; exit 1; }
echo "$line"

payload='{"path": "workers/data/cairns_gtfs.zip", "schema": "cairns"}'
say "$ damad queue gtfs_load.py --payload '$payload'"
id=$(damad queue gtfs_load.py --payload "$payload")
echo "$id"

say "$ damad events $id --follow"
damad events "$id" --follow

say "$ damad logs $id"
damad logs "$id"

say '$ damad run gtfs_summary.py --payload '"'"'{"schema": "cairns"}'"'"
damad run gtfs_summary.py --payload '{"schema": "cairns"}' 2>&1 >/dev/null

say '$ damad tasks'
damad tasks

say '$ damad verify'
damad verify
