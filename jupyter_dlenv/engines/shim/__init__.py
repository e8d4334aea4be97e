"""Runs one command for its run folder: merges its logs, ends it when asked, writes down how it ended.

Usage: ``python3 -I -S FOLDER RUN_DIR [INDEX]``. Both flags only make the start quick; the command gets a normal
environment. INDEX is which of the replicas on this host it is, 0 without it.

Standard library only and Python 3.6 syntax, because it runs on whatever Python the user's image holds; one folder,
because one folder is what a container is shown. The command writes its raw files itself, never through a pipe of ours:
should this process be slow or die, the command does not notice. Nothing outside RUN_DIR is written.
"""

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
"""What a container is shown, and what an interpreter is given to run."""
