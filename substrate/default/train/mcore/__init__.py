"""LoRA on a megatron-core hybrid model (Mamba-2, attention, MLP, mixture of experts: Nemotron-H).

Every module is built through megatron-core's own ModuleSpec hooks and runs on CPU (gloo) and CUDA
(nccl) alike. `python -m train.megatron` is the entry point.
"""

import torch

if not torch.cuda.is_available():
    import torch._dynamo

    # megatron-core wraps some functions in torch.compile. On CPU that gains nothing here, takes
    # 20 seconds at the first step, and needs a C++ compiler.
    torch._dynamo.config.disable = True
