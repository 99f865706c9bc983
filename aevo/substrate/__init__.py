"""The training stack: frozen and forked, its recipe, its catalogue of axes."""
