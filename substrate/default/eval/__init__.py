"""Frozen evaluation: items, metric, decoding, scores."""
