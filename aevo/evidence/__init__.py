"""A round's evidence: collected, computed, audited, put into words, verified."""
