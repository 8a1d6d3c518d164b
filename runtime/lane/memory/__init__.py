"""The memory of the device that a pipeline works on: a port, CUDA, a CPU, and a CPU with a budget. Torch is imported late."""
