"""The parts of `benchmarks.gpu_memory`."""
