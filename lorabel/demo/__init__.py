"""A project to try Lorabel with: drawn pictures, and a small model that was trained on such pictures."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""Loaded by open_clip as `local-dir:<MODEL_FOLDER>`."""
SEGMENTER_FOLDER = Path(__file__).parent / "segmenter"
"""Loaded by transformers as `local-dir:<SEGMENTER_FOLDER>`."""
