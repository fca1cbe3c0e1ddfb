"""`python -m benchmarks`; its options are in benchmarks/command.py."""

import os
import sys

from lorabel.commands.supervisor import PATIENCE

if __name__ == "__main__":
    # Set torch's threads as in the processes that `lorabel up` starts; this must come before torch is imported.
    os.environ.update(PATIENCE)
    from benchmarks.command import main

    sys.exit(main())
