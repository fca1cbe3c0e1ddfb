"""RQ jobs: annotations become training data, training data becomes adapters."""
