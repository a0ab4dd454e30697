"""A small process that runs a command and prints the most memory it held, in MB: `python -m damad.bench.peak WORDS`.

It is one of its own because the kernel counts what the process that forks holds as the child's: a bench would find
its own peak. What is here is less than any damad holds.
"""

import resource
import subprocess
import sys

if __name__ == "__main__":
    code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False).returncode
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    sys.exit(code)
