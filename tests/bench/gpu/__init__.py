"""What scripts/gpu_check runs: phases that each prove a part of the GPU paths, and their driver."""
