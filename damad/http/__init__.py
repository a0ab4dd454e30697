"""The HTTP front: decode, call a function of the core, encode. What it promises is the contract's section on HTTP.

app.py puts it together, listening.py listens. A request passes, in this order: problems.py (every refusal leaves as a
problem document), auth.py (who may ask), the pg_env it names (pg_envs.py), and one of the route modules: tasks.py,
contexts.py, events.py, feed.py, logs.py, original.py, health.py, metrics.py, reference.py. They read bodies and
parameters through wire.py alone, so that no route can forget a limit. openapi.py describes them all.
"""
