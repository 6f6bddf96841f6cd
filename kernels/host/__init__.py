"""CUDA kernels on the CPU: the same text, compiled by g++, each thread a fiber. `host` has what to call."""
