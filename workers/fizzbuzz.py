"""A parent that queues N subtasks, outlives whatever happens to them, and sums up what they said.

Payload  {"n": 40, "chaos": 0.2}, and if you like "seed": 7 (makes the chaos repeatable) and "queue": "name"
Result   {"n": 40, "fizz": 10, "buzz": 6, "fizzbuzz": 2, "number": 21, "failed": [9]}
"""

from collections import Counter

from damad import tasks


async def main(initial_event: dict) -> dict:
    """Queue one subtask for each number from 1 to n, wait for them all, count the answers."""
    order = read_order(initial_event["payload"])
    numbers = range(1, order["n"] + 1)

    # A subtask is queued once per name. Should this parent be killed and tried again,
    # it finds the children it already has instead of queueing them a second time.
    children = [await queue_number(i, order) for i in numbers]
    answers = await tasks.gather(*children, return_exceptions=True)

    return sum_up(dict(zip(numbers, answers, strict=True)))


async def queue_number(i: int, order: dict):
    """Queue the subtask that says what number i is."""
    payload = {"i": i, "chaos": order["chaos"]}
    if "seed" in order:
        payload["seed"] = order["seed"]
    settings = {"queue": order["queue"]} if "queue" in order else {}
    return await tasks.subtask(f"number {i}", worker="fizzbuzz_subtask.py", payload=payload, **settings)


def sum_up(answers: dict) -> dict:
    """Count what was said, and name the numbers whose subtask used up its retries or was cancelled."""
    said: Counter[str] = Counter()
    failed = []
    for i, answer in answers.items():
        if isinstance(answer, tasks.TaskFailed | tasks.TaskCancelled):
            failed.append(i)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            says = answer["says"]
            said["number" if says.isdigit() else says] += 1
    counts = {word: said[word] for word in ("fizz", "buzz", "fizzbuzz", "number")}
    return {"n": len(answers), **counts, "failed": failed}


def read_order(payload: dict) -> dict:
    """The payload with its defaults; what makes no sense is refused at once, for no retry would mend it."""
    order = {"n": 40, "chaos": 0.0} | payload
    if type(order["n"]) is not int or order["n"] < 0:
        raise tasks.NoRetry(f"n is how many subtasks to queue, not {order['n']!r}")
    if not isinstance(order["chaos"], int | float) or not 0 <= order["chaos"] <= 1:
        raise tasks.NoRetry(f"chaos is a chance between 0 and 1, not {order['chaos']!r}")
    return order
