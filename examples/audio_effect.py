"""An audio effect in real time: an LSTM learns what a guitar amplifier does to the sound, then plays block by block.

    python audio_effect.py                     under a minute on one core; writes audio_effect.wav and .png
    python audio_effect.py --steps 50          a short try

The model is that of Wright, Damskägg and Välimäki, "Real-time black-box modelling with recurrent neural networks"
(DAFx 2019): y = x + head(lstm(x)), one sample a step. The amplifier is a formula here: a filter, a valve that bends the
wave more on one side than on the other, another filter. The sound is a plucked string's.
"""

import argparse
import time
import wave
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn
from fastrnn import losses, optim, plot

RATE, BLOCK = 44_100, 64  # samples a second, and those that a sound card hands over at a time: 1.5 ms
MELODY = (82.4, 110.0, 146.8, 196.0, 246.9, 329.6, 246.9, 196.0)  # Hz: the strings of a guitar


def pluck(frequency: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A string after Karplus and Strong: noise that goes round and is smoothed."""
    periods = [rng.uniform(-0.5, 0.5, round(RATE / frequency))]
    while len(periods) * len(periods[0]) < RATE * seconds:
        periods.append(0.498 * (periods[-1] + np.roll(periods[-1], 1)))
    return np.concatenate(periods)[: round(RATE * seconds)]


def guitar(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A melody (T,), each note 0.4 s after the one before and heard for 1.2 s."""
    x = np.zeros(round(RATE * (seconds + 2)))
    for began, frequency in zip(np.arange(0, seconds, 0.4), cycle(MELODY), strict=False):
        start = round(RATE * began)
        note = pluck(frequency, 1.2, rng) * np.linspace(1, 0, round(RATE * 1.2))
        x[start : start + len(note)] += note
    x = x[: round(RATE * seconds)]
    return (x / np.abs(x).max()).astype(np.float32)


def smooth(x: np.ndarray, share: float) -> np.ndarray:
    """A low-pass filter of one pole."""
    pole = np.exp(np.log(1 - share) * np.arange(200))
    return share * np.convolve(x, pole)[: len(x)]


def amplifier(x: np.ndarray) -> np.ndarray:
    """What the model is to sound like."""
    bright = x - 0.6 * smooth(x, 0.02)
    bent = np.tanh(6 * bright + 0.4) - np.tanh(0.4)
    return (0.5 * smooth(bent, 0.4)).astype(np.float32)


class Effect(fastrnn.Module):
    def __init__(self, hidden: int = 20, rng: int | None = None) -> None:
        rng = np.random.default_rng(rng)
        self.lstm = fastrnn.LSTM(1, hidden, rng=rng)
        self.head = fastrnn.Linear(hidden, 1, rng=rng)

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        return x + self.head(y), state

    def vjp(self, x, state=None):
        (y, state), lstm_back = self.lstm.vjp(x, state, wrt="params")
        wet, head_back = self.head.vjp(y)

        def backward(d_wet):  # past the residual, x, nothing is to be learnt
            head = head_back(d_wet)
            parts = {"lstm": lstm_back(head.x), "head": head}
            return {f"{part}.{name}": d for part, of in parts.items() for name, d in of.params.items()}

        return (x + wet, state), backward


def train(
    model: Effect, dry: np.ndarray, wet: np.ndarray, steps: int, rows: int = 32, window: int = 512
) -> list[float]:
    """The loss of every step: truncated backprop through time, each row in a part of the sound of its own."""
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    columns = [a[: len(a) // rows * rows].reshape(rows, -1).T[:, :, None] for a in (dry, wet)]  # (T, N, 1)
    found, state, start = [], None, 0
    for _ in range(steps):
        if start + window > len(columns[0]):
            state, start = None, 0
        x, target = (a[start : start + window] for a in columns)
        (y, state), backward = model.vjp(x, state)
        loss, d_y = losses.mse_loss(y, target)
        gradients, _ = optim.clip_grad_norm(backward(d_y), 1.0)
        optimizer.step(gradients)
        schedule.step()
        found.append(float(loss))
        start += window
    return found


def play(model: Effect, dry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sound (T,) made of blocks as they come, and the seconds that each block took."""
    stream, wet, took = model.lstm.stream(), np.empty_like(dry), []
    for start in range(0, len(dry), BLOCK):
        began = time.perf_counter()
        x = dry[start : start + BLOCK, None]
        wet[start : start + BLOCK] = (x + model.head(stream.process(x)))[:, 0]
        took.append(time.perf_counter() - began)
    return wet, np.array(took)


def write_wav(path: Path, x: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((x.clip(-1, 1) * 32767).astype("<i2").tobytes())


def picture(dry: np.ndarray, wet: np.ndarray, target: np.ndarray, found: list[float]) -> Figure:
    """A second of both sounds, 6 ms of it from near, and the loss."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subfigures(2)
    second, near = slice(RATE, 2 * RATE), slice(round(1.23 * RATE), round(1.236 * RATE))
    t = np.arange(len(dry)) / RATE
    for ax, x, name in zip(above.subplots(1, 2, sharey=True), (dry, wet), ("dry", "wet"), strict=True):
        ax.plot(t[second], x[second], linewidth=0.3, color="black")
        ax.set(title=name, xlabel="seconds", ylim=(-1, 1))
    detail, loss = below.subplots(1, 2, width_ratios=[2, 1])
    detail.plot(t[near], dry[near], color="gray", label="dry")
    detail.plot(t[near], target[near], color="black", linewidth=3, alpha=0.4, label="amplifier")
    detail.plot(t[near], wet[near], color="tab:red", label="model")
    detail.set(xlabel="seconds")
    detail.legend(frameon=False, ncols=3)
    plot.loss(found, log=True, ax=loss)
    return figure


def main(steps: int = 800, out: Path = Path()) -> None:
    rng = np.random.default_rng(0)
    dry = guitar(20, rng)
    model = Effect(rng=0)
    began = time.perf_counter()
    found = train(model, dry, amplifier(dry), steps)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s: loss {found[0]:.3f} -> {np.mean(found[-20:]):.5f}")
    dry = guitar(3.2, rng)
    wet, took = play(model, dry)
    target = amplifier(dry)
    left, before = (((x - target) ** 2).sum() / (target**2).sum() for x in (wet, dry))
    print(f"error, of the energy of what the amplifier gives: {left:.1%}; without the model {before:.0%}")
    load = np.median(took) / (BLOCK / RATE)
    print(f"CPU load: {load:.1%} of real time, in blocks of {BLOCK} samples at {RATE:,} Hz")
    write_wav(out / "audio_effect.wav", np.concatenate([dry, wet]))
    picture(dry, wet, target, found).savefig(out / "audio_effect.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
