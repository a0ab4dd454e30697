"""The first worker: greets whoever the payload names.

damad queue hello.py --payload '{"name": "world"}' --wait
"""


async def main(initial_event):
    return {"greeting": "hello " + initial_event["payload"]["name"]}
