"""Runs the tasks of this host: observe the log and the processes, decide, perform, and again.

`decisions.py` is pure and holds all policy; `observation.py` says what became of the processes; `launcher.py` starts
them; `supervisor.py` is the loop.
"""
