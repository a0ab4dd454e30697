"""A worker that prints as fast as it can: its log stays near its limit at every moment, and whole at both ends."""

import pytest
from daemon_support import Daemon, Site

LIMIT = 1_000_000
SETTINGS = {"DAMAD_LOG_LIMIT": str(LIMIT), "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0"}

PRINTED = 2_000_000_000
MOST = PRINTED // 2
"""What may lie on the disk for a moment: many times what does, for a busy machine, and far from all of it."""

BURST = f"""
import os, time

def main():
    print("the first line", flush=True)
    most, lines = 0, (b"x" * 99 + b"\\n") * 10_000
    time.sleep(0.8)  # so that nobody looks just now
    for _ in range({PRINTED} // len(lines)):
        os.write(1, lines)
        most = max(most, os.fstat(1).st_blocks * 512)
    print("the last line", flush=True)
    return {{"most": most}}
"""


@pytest.mark.fault(
    fault="a worker prints two thousand times what its log may hold, after a silence",
    injected="2 GB in one burst",
    invariants="I6 I10",
)
async def test_what_a_burst_leaves_on_the_disk_is_bounded_at_every_moment(daemon: Daemon, site: Site) -> None:
    outcome = await site.run(BURST)
    assert outcome.state == "done"
    print(f"{outcome.result['most'] / 1e6:.0f} MB at most")
    assert outcome.result["most"] < MOST
    await daemon.quiet()
    log = await site.log(outcome.id)
    assert len(log) <= LIMIT
    assert log.startswith("the first line\n") and log.endswith("the last line\n")
