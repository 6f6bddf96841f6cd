"""CUDA kernels, one folder for each operation."""
