"""Says first of all when it began. Then it keeps the processors busy, as what a training script imports does."""

import time

print(f"first line at {time.time():.6f}", flush=True)

import torch  # noqa: E402, F401
