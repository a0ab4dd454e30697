"""damad runs ETL tasks in processes of their own, with an event log in Postgres as the only truth.

    cli ─┐                                     ┌────────────── scheduler ──────────────┐
    http ┼→ core (events, tasks, …) → eventstore.append → LOG → claim → decide → launch → runner → worker's main
     …  ─┘        ↑ ambient context                 ↑                                             │
                  └──────────────────── the same core modules, the same append ←─────────────────┘

A front (HTTP, command line, a worker, your own program) calls a function of the core; the core appends to the log;
the supervisor reads the log, decides, claims and launches; the runner runs a worker's `main` and appends what became
of it. At run time this is a circle, in imports a line: every arrow that would point up goes through the log.

Workers import `context`, `events` and `tasks`:

    from damad import context, events, tasks
"""

__version__ = "0.1.0"
