"""Measures how fast Lorabel is, and compares each figure with its goal: `python -m benchmarks`, `make bench`.

A subject is a file in `benchmarks/subjects` with a function `measure(plan) -> list[Row]`. It is found by its file.
"""
