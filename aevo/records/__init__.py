"""Typed documents that make up a campaign folder, and their reading and writing (DESIGN section 4)."""
