"""`python -m benchmarks`; benchmarks/command.py says what it takes."""

import os
import sys

from lorabel.commands.supervisor import PATIENCE

if __name__ == "__main__":
    # Before torch is imported: its threads are set as in the processes that `lorabel up` starts.
    os.environ.update(PATIENCE)
    from benchmarks.command import main

    sys.exit(main())
