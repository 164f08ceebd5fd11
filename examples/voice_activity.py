"""Voice activity, chunk by chunk: a torch checkpoint is run as sound comes in, in step with the whole recording.

    python voice_activity.py                   a few seconds; writes voice_activity.png
    python voice_activity.py --seconds 5       a short try

Two convolutions make a frame of 10 ms out of 80 samples, an LSTM goes over the frames, a linear head says whether
someone speaks. `train_voice_activity.py` trained it, in torch. The recordings are synthetic: vowels with a wandering
pitch in noise, and as a trap hisses as loud as a voice.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn

CHECKPOINT = Path(__file__).parent / "data" / "voice_activity.pt"
RATE, FRAME = 8000, 80  # samples a second, samples a frame


class VoiceActivity(fastrnn.Module):
    """The torch model of the same attributes, for one recording."""

    def __init__(self) -> None:
        self.conv1 = fastrnn.Conv1d(1, 24, 80, stride=40)
        self.conv2 = fastrnn.Conv1d(24, 32, 4, stride=2)
        self.relu = fastrnn.ReLU()
        self.lstm = fastrnn.LSTM(32, 32)
        self.head = fastrnn.Linear(32, 1)

    def forward(self, x):
        """Logits (frames,) of a whole recording (T,)."""
        y = x[None]
        for conv in (self.conv1, self.conv2):
            before = np.zeros((len(y), conv.kernel_size[0] - 1), y.dtype)  # what a stream begins with
            y = self.relu(conv(np.concatenate([before, y], axis=1)))
        y, _ = self.lstm(y.T)
        return self.head(y)[:, 0]


class Listener:
    """The same model, chunk by chunk."""

    def __init__(self, model: VoiceActivity) -> None:
        self.relu, self.head = model.relu, model.head
        self.conv1, self.conv2, self.lstm = (part.stream() for part in (model.conv1, model.conv2, model.lstm))

    def hear(self, chunk: np.ndarray) -> np.ndarray:
        """Logits (frames,) of the next samples, a multiple of FRAME of them."""
        y = self.relu(self.conv1.process(chunk[None]))
        y = self.relu(self.conv2.process(y))
        return self.head(self.lstm.process(y.T))[:, 0]


def voice(n: int, rng: np.random.Generator) -> np.ndarray:
    """Vowels (n,): harmonics of a wandering pitch, loud where a formant is, in syllables."""
    t = np.arange(n) / RATE
    pitch = rng.uniform(90, 250) * np.exp(0.15 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = rng.uniform([300, 900], [900, 2300])
    x = np.zeros(n)
    for k in range(1, 16):
        f = k * pitch.mean()
        if f < 3500:
            loud = sum(np.exp(-(((f - formant) / 250) ** 2)) for formant in formants) + 0.1
            x += loud * np.sin(k * phase + rng.uniform(0, 6))
    return x * (0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(3, 6) * t + rng.uniform(0, 6)))


def recording(seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples (T,), and for each frame (T / FRAME,) whether someone speaks."""
    frames = round(seconds * RATE / FRAME)
    x, speaks = np.zeros(frames * FRAME), np.zeros(frames, bool)
    at = rng.integers(20, 80)
    while at < frames - 20:
        last = min(at + rng.integers(20, 120), frames)
        n = (last - at) * FRAME
        spoken = rng.random() < 0.6
        burst = voice(n, rng) if spoken else rng.normal(size=n) * np.sin(np.linspace(0, np.pi, n)) ** 0.5
        x[at * FRAME : last * FRAME] += rng.uniform(0.5, 1) * burst / burst.std()
        speaks[at:last] = spoken
        at = last + rng.integers(20, 120)
    x += rng.uniform(0.1, 0.7) * rng.normal(size=len(x))
    return (0.2 * x).astype(np.float32), speaks


def picture(x: np.ndarray, speaks: np.ndarray, p: np.ndarray) -> Figure:
    """The wave with what was detected, and how sure the model is."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    wave, sure = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    times = np.arange(len(p)) * FRAME / RATE
    wave.plot(np.arange(len(x)) / RATE, x, linewidth=0.3, color="black")
    wave.fill_between(times, -1, 1, where=p > 0.5, step="post", color="tab:green", alpha=0.35, label="detected")
    wave.fill_between(times, -1.12, -1, where=speaks, step="post", color="tab:blue", label="someone speaks")
    wave.set(ylim=(-1.12, 1), ylabel="wave")
    wave.legend(loc="upper right", ncols=2)
    sure.plot(times, p, color="tab:green")
    sure.set(xlabel="seconds", ylabel="probability", xlim=(0, times[-1]))
    return figure


def main(seconds: float = 20.0, out: Path = Path()) -> None:
    model = VoiceActivity()
    model.load_state_dict(fastrnn.load(CHECKPOINT))
    x, speaks = recording(seconds, np.random.default_rng(1))
    listener, logits = Listener(model), []
    began = time.perf_counter()
    for start in range(0, len(x), FRAME):
        logits.append(listener.hear(x[start : start + FRAME]))
    took = time.perf_counter() - began
    logits = np.concatenate(logits)
    difference = np.abs(logits - model(x)).max()
    power = (x.reshape(-1, FRAME) ** 2).mean(1)
    loud = max(((power > threshold) == speaks).mean() for threshold in power)
    print(f"{seconds:g} s of sound, in chunks of 10 ms: {took:.2f} s, a real-time factor of {took / seconds:.4f}")
    print(f"largest difference from the whole recording in one call: {difference:.1e}")
    print(f"right in {((logits > 0) == speaks).mean():.1%} of all frames; the best threshold of loudness: {loud:.1%}")
    picture(x, speaks, fastrnn.Sigmoid()(logits)).savefig(out / "voice_activity.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
