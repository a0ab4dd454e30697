"""Runs one attempt of a task: load the worker, call main, report.

`forkserver.py` has imported everything and forks parents, each with a `line.py` to the daemon. `parent.py` is the
small process that forks the worker's, reaps it and writes down how it ended; `child.py` is the worker's process;
`attempt.py` is what both it and the daemon do around `main`. For a worker in JavaScript `node.py` runs node beside the
worker's process, with `node_shim.mjs` around `main`.
"""
