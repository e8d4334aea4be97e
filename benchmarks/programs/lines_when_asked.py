"""Waits for the file that its argument names, then writes a million numbered lines of 75 bytes in large blocks."""

import os
import sys
import time

LINES = 1_000_000
BLOCK = 1000

while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
for first in range(0, LINES, BLOCK):
    lines = "".join(f"{number:7d} {'x' * 66}\n" for number in range(first, first + BLOCK))
    sys.stdout.buffer.write(lines.encode())
