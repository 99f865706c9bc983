"""Scale sheets: what a model's campaign asks of GPUs, hours and file system, before it is run.

`python -m aevo.scale` computes them from the conf files that a campaign would use and from the
architecture of the model; nothing is loaded and no GPU is asked.
"""
