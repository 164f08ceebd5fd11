"""Bridges to other packages, each named after its own; only `torch` and `threadpoolctl` import that package."""
