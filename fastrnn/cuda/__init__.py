"""The engine for NVIDIA GPUs, in Numba CUDA. Importing this package touches no GPU; its modules do when called."""
