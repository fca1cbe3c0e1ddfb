"""A problem and a family for Lorabel, from a package of their own."""
