"""Fixtures of the export tests."""

from mediapipe_peer import mediapipe  # noqa: F401
