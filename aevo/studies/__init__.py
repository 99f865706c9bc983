"""Beside the loop: its decisions on response surfaces, and what a model will cost."""
