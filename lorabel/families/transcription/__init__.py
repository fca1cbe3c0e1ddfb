"""Parts of the family `speech`."""
