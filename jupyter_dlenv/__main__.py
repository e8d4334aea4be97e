"""``python -m jupyter_dlenv`` is ``jupyter dlenv``."""

import sys

from .cli import main

sys.exit(main())
