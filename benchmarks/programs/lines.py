"""Writes lines of 75 bytes: ``lines.py COUNT [print]``, in large blocks or with one ``print`` a line."""

import sys

LINE = "x" * 74
BLOCK = 1000

count = int(sys.argv[1])
if sys.argv[2:] == ["print"]:
    for _ in range(count):
        print(LINE)
else:
    block = (LINE + "\n").encode() * BLOCK
    for _ in range(count // BLOCK):
        sys.stdout.buffer.write(block)
