"""`python -m tests.rehearsal.measured COMMAND ...` runs it and prints [seconds, processor seconds, GiB at most, exit
code].

A process of its own, for `ru_maxrss` outlives `exec`: a child of pytest would be told what pytest holds.
"""

import json
import os
import subprocess
import sys
import time


def measure(command: list[str]) -> tuple[float, float, float, int]:
    """Seconds, those of all processors, the peak of resident memory in GiB, exit code.

    What the command prints goes to standard error.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, busy = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return seconds, busy, usage.ru_maxrss / 2**20, process.returncode


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
