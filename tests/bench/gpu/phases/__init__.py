"""One module a phase; each has `run(here)`."""
