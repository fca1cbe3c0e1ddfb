"""What a project learns about lines of text: which label a line has, and which words people write. NumPy only."""
