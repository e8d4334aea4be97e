"""Writes numbered lines of 75 bytes at an even pace: ``steady.py LINES_A_SECOND SECONDS``."""

import sys
import time

STEPS_A_SECOND = 100

rate, seconds = int(sys.argv[1]), int(sys.argv[2])
due, number = time.monotonic(), 0
for _step in range(seconds * STEPS_A_SECOND):
    lines = [f"{number + place:010d} {'x' * 63}\n" for place in range(rate // STEPS_A_SECOND)]
    number += len(lines)
    sys.stdout.write("".join(lines))
    sys.stdout.flush()
    due += 1 / STEPS_A_SECOND
    time.sleep(max(0.0, due - time.monotonic()))
