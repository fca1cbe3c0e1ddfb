"""A simulation of Lorabel on many machines, in simulated time: `python -m benchmarks.simulation`."""
