"""`python -m workers light|train|bulk`: the worker of a queue, until a signal."""

import sys

from lorabel.startup import garbage_collector_paused


def main() -> None:
    """Run the worker of the queue that the command line names."""
    with garbage_collector_paused():
        from workers import worker
    if len(sys.argv) != 2 or sys.argv[1] not in worker.QUEUES:
        sys.exit(f"usage: python -m workers {'|'.join(worker.QUEUES)}")
    worker.main(sys.argv[1])


if __name__ == "__main__":
    main()
