"""aevo: an autonomous post-training loop for large language models (see README.md)."""

__version__ = "0.1.0"
