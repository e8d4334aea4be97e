"""Does nothing for as long as anybody measures."""

import time

time.sleep(3600)
