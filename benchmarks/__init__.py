"""What jupyter-dlenv costs beside doing the same by hand: ``python -m benchmarks`` measures, prints and writes JSON.

One module a figure, each with a function ``measure``. A figure is a ratio of two sides that are measured in one run on
one machine, in turns, so that a slow or busy machine slows both.
"""
