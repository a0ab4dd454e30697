"""Runs one attempt of a task: take the lease, load the worker, call main, report.

`parent.py` is the small process that detaches from the daemon, forks the worker's process, reaps it and writes down
how it ended; `child.py` is the worker's process; `attempt.py` is what both it and the daemon do around `main`.
"""
