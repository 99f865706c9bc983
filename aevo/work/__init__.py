"""One candidate: the worker, its tools and shell, and the broker that trains and evaluates."""
