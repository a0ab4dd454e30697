"""The pure model: what an event is, which may follow which, and what a log of them means.

No clock, no randomness, no I/O: `now`, ids and random numbers are arguments.
"""
