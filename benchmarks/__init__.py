"""How fast Lorabel is, with every goal beside what was measured: `python -m benchmarks`, `make bench`.

A subject is a file in `benchmarks/subjects` with a function `measure(plan) -> list[Row]`; nothing registers it.
"""
