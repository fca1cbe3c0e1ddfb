"""Segments of series: cells of even width, the features of windows of cells, and segments from probabilities."""
