"""Whether the server's CUDA path holds on the GPU of this machine: make gpu-check."""
