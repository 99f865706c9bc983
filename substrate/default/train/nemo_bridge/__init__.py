"""trainer=bridge: NVIDIA Megatron-Bridge's own LoRA recipes for Nemotron 3, fed with our rows.

`driver` imports Megatron-Bridge, which lives in NVIDIA's container; everything else is
plain Python and torch. `python -m train.bridge` is the entry point, `python -m
train.nemo_bridge.imported` converts a checkpoint once. Written against Megatron-Bridge 0.5.1 and
0.6.0.
"""
