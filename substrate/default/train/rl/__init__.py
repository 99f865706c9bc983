"""Beyond SFT: rejection sampling (RFT), DPO and GRPO as stages of one run (`train.stages`)."""
