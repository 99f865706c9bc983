"""The typed documents of a campaign folder, and their reading and writing."""
