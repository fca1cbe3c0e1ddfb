"""Segments in time: windows of a recording, what is right about each window, and segments from probabilities."""
