"""LoRA supervised fine-tuning of a causal language model; entry point `python -m train.sft`."""
