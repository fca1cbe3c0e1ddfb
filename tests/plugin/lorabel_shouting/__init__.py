"""A problem and a family for Lorabel in a package of their own, found by the entry points in pyproject.toml."""
