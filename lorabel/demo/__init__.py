"""A project to try Lorabel with: drawn pictures, and small models that were trained on such pictures."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""Loaded by open_clip as `local-dir:<MODEL_FOLDER>`."""
DETECTOR_FOLDER = Path(__file__).parent / "detector"
"""A tiny OWLv2, which finds the things of `lorabel.demo.scenes`; `MODEL_DETECTOR=local-dir:<DETECTOR_FOLDER>`."""
SEGMENTER_FOLDER = Path(__file__).parent / "segmenter"
"""Loaded by transformers as `local-dir:<SEGMENTER_FOLDER>`."""
TRACKER_FOLDER = Path(__file__).parent / "tracker"
"""A tiny SAM 2 for videos, which follows a box through clips such as those of `lorabel.demo.moving_clips`;
`MODEL_TRACKER=local-dir:<TRACKER_FOLDER>`."""
CAPTIONER_FOLDER = Path(__file__).parent / "captioner"
"""A tiny SmolVLM for pictures of `lorabel.demo.counted_scenes`; `MODEL_GENERATOR=local-dir:<CAPTIONER_FOLDER>`."""
