"""A recording larger than memory: chunk after chunk of a memory-mapped file through a layer, its state carried on.

python examples/memory_mapped.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import fastrnn


def process(layer: fastrnn.GRU, source: Path, target: Path, max_bytes: int) -> None:
    """Run the layer over the sequence (T, I) in `source`; `target` gets the output.

    No more than `max_bytes` of the two are worked on at a time.
    """
    x = np.load(source, mmap_mode="r")
    y = np.lib.format.open_memmap(target, mode="w+", dtype=layer.dtype, shape=(len(x), layer.hidden_size))
    steps = max(1, max_bytes // (x[:1].nbytes + y[:1].nbytes))
    state = None
    for start in range(0, len(x), steps):
        chunk = slice(start, start + steps)
        _, state = layer(x[chunk], state, out=y[chunk])
    y.flush()


def main() -> None:
    layer = fastrnn.GRU(8, 16, rng=0)
    max_bytes = 1 << 20
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.npy"), Path(folder, "y.npy")
        np.save(source, np.random.default_rng(0).normal(size=(100_000, 8)).astype(np.float32))
        process(layer, source, target, max_bytes)
        print(f"{source.stat().st_size / max_bytes:.1f} times the bound went in, the output is {np.load(target).shape}")


if __name__ == "__main__":
    main()
