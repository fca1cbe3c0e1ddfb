"""Segments in time: windows of a sound, what is right about each window, and segments from probabilities."""
