"""The base checkpoints: the tiny one that ships, and how others are prepared."""
