"""One number of fizzbuzz.py: says fizz, buzz, fizzbuzz or the number, if it lives long enough.

Payload  {"i": 7, "chaos": 0.2}, and if you like "seed": 7
Result   {"i": 7, "says": "7"}
"""

import os
import random
import signal

from damad import context


# Not async on purpose: a sync worker always has a process of its own, so the kill below hits nobody else.
def main(initial_event: dict) -> dict:
    """Survive the chaos of this attempt, then answer."""
    payload = initial_event["payload"]
    attempt = context.current().attempt
    misfortune(chances(payload, attempt), payload.get("chaos", 0), attempt)
    return {"i": payload["i"], "says": fizzbuzz(payload["i"])}


def fizzbuzz(i: int) -> str:
    """What the children's game says at number i."""
    return ("fizz" * (i % 3 == 0) + "buzz" * (i % 5 == 0)) or str(i)


def chances(payload: dict, attempt: int) -> random.Random:
    """Dice for this attempt: with a seed, each attempt of each number always meets the same fate."""
    seed = payload.get("seed")
    return random.Random(None if seed is None else f"{seed} {payload['i']} {attempt}")


def misfortune(dice: random.Random, chaos: float, attempt: int) -> None:
    """With a chance of `chaos` end this attempt: half of the time by an exception, else by SIGKILL."""
    if dice.random() >= chaos:
        return
    if dice.random() < 0.5:
        raise RuntimeError(f"bad luck in attempt {attempt}")
    print(f"attempt {attempt} kills itself", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
