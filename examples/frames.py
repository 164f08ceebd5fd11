"""Frames as they come, from a generator through a stream: one step at a time, the state kept in between.

python examples/frames.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

import fastrnn


def sensor(n_frames: int) -> Iterator[np.ndarray]:
    """Stands for a device: two channels, a frame (2,) at a time."""
    for t in range(n_frames):
        yield np.array([np.sin(0.1 * t), np.cos(0.3 * t)])


def outputs(layer: fastrnn.LSTM, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The layer's output (H,) for each frame, as soon as the frame is there."""
    stream = layer.stream()
    for frame in frames:
        yield stream.step(frame)


def main() -> None:
    layer = fastrnn.LSTM(2, 32, num_layers=2, rng=0)
    loudest = max(outputs(layer, sensor(1000)), key=np.linalg.norm)
    whole, _ = layer(np.array(list(sensor(1000))))
    print(f"loudest frame: {np.linalg.norm(loudest):.4f}, in one call: {np.linalg.norm(whole, axis=1).max():.4f}")


if __name__ == "__main__":
    main()
