"""Runs the tasks of this host: observe the log and the processes, decide, perform, and again.

`supervisor.py` is the loop. `decisions.py` is pure and holds all policy; `observation.py` says what became of the
processes; `claims.py` claims what free slots allow; `starting.py` and `launcher.py` start it, `runners.py` holds the
lines to those that fork it, and `reporting.py` says what reaches the log for it. `clock.py` knows what time it is by
Postgres, `ticks.py` takes the ticks of the schedules, and `bulkhead.py` keeps what is wrong with one task to itself.
"""
