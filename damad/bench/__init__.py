"""What `damad bench` runs: every line of the goals, beside what this machine can do at best, in the same minutes.

    goals.py    the table: what is measured, in which unit, and what is wanted of it
    course.py   the parts in turn, several times, each beside its yardsticks → a Document (figures.py)
    sizes.py    how much of each
    ground.py   what they stand on: scratch databases, state folders, daemons, removed again at the end

Absolute figures drift on shared machines. So damad's figure and its yardstick are taken one right after the other,
and what counts is their ratio. Nothing is simulated: real daemons, real processes, and the Postgres that is configured.
"""
