"""A round from its policy: candidates, seeds, and the graph of its jobs."""
