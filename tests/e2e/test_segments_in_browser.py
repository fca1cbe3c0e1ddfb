"""An annotator in Chromium sees segments of a video and of a sound where they belong, moves and submits them."""
