"""trainer=nemo_rl: NVIDIA NeMo-RL's own SFT, DPO and GRPO with LoRA for Nemotron 3, on our rows.

`python -m train.nemo_rl` is the entry point. It starts Ray in the allocation (`cluster`), divides
the recipe's stages into runs of NVIDIA's example scripts (`tasks`, `run`), and gives each a
configuration over NVIDIA's recipe (`settings`) and a file of rows (`rows`). `driver` is what those
scripts run in; it, `inside` and `environment` alone import NeMo-RL. Written against NeMo-RL 0.7.0.
"""
