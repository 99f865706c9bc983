"""Files of a campaign folder: paths, atomic documents, digests, dotted keys, leases, the log."""
