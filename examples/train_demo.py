"""Train the model behind ``fastrnn demo``: a bidirectional LSTM that reads Morse code out of noise.

    python examples/train_demo.py            # needs torch; about two minutes on one core

It writes two files into ``fastrnn/data/``: ``demo.pt``, the checkpoint as ``torch.save`` makes it, and
``demo_golden.npz``, a ragged batch of messages with the outputs that torch computed for them. Training messages are
random letters, so the model has learnt the code and not the language: it has never seen the messages of the demo.

The same seed gives the same model on the same machine and torch version; elsewhere the last bits of the weights differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SYMBOLS = ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
CODE = dict(zip(LETTERS, SYMBOLS.split(), strict=True))
ALPHABET = "_ " + LETTERS  # class 0: nothing to report yet; class 1: the space between two words
FRAME = 4  # samples that the receiver hands over per step
HIDDEN = 28
MESSAGES = ["THE SEA WAS CALM", "NO TORCH ON BOARD", "SEND HELP", "HELLO WORLD"]


def key_message(text: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Key `text` by hand: is the key down, and which class does the listener want to hear, sample by sample."""
    dot = rng.uniform(3.0, 6.0)
    key: list[int] = []
    labels: list[int] = []

    def hold(down: int, units: int, label: int) -> None:
        n = max(1, round(units * dot * rng.normal(1.0, 0.08)))
        key.extend([down] * n)
        labels.extend([label] * n)

    hold(0, 2, 0)
    for char in text:
        label = ALPHABET.index(char)
        if char == " ":  # lengthens the pause of three units after the last letter to seven
            hold(0, 3, label)
            hold(0, 1, 0)
            continue
        for symbol in CODE[char]:
            hold(1, 1 if symbol == "." else 3, label)
            hold(0, 1, label)
        hold(0, 2, 0)
    return np.array(key), np.array(labels)


def receive(text: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a radio gives for `text`: frames ``(T, FRAME)`` with noise and fading, and a label for each, ``(T,)``."""
    key, labels = key_message(text, rng)
    steps = -(-len(key) // FRAME)
    key = np.pad(key, (0, steps * FRAME - len(key)))
    labels = np.pad(labels, (0, steps * FRAME - len(labels)))
    at = np.arange(len(key))
    fading = 1.0 - rng.uniform(0.0, 0.4) * np.sin(at * rng.uniform(0.005, 0.03) + rng.uniform(0.0, 6.3)) ** 2
    signal = key * fading + rng.normal(0.0, rng.uniform(0.05, 0.35), len(key))
    return signal.reshape(steps, FRAME).astype(np.float32), labels.reshape(steps, FRAME)[:, FRAME // 2]


def random_text(rng: np.random.Generator) -> str:
    words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 8))) for _ in range(4)]
    return " ".join(words)[: rng.integers(8, 18)].strip()


def batch(messages: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames ``(N, T, FRAME)`` padded with zeros, labels ``(N, T)`` padded with -100, lengths ``(N,)``."""
    rows = [receive(text, rng) for text in messages]
    lengths = np.array([len(x) for x, _ in rows])
    x = np.zeros((len(rows), lengths.max(), FRAME), np.float32)
    labels = np.full(x.shape[:2], -100)
    for i, (row, label) in enumerate(rows):
        x[i, : len(row)], labels[i, : len(row)] = row, label
    return x, labels, lengths


class Listener(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(FRAME, HIDDEN, num_layers=2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(2 * HIDDEN, len(ALPHABET))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def train(model: Listener, iterations: int, rng: np.random.Generator) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=iterations, pct_start=0.1)
    began = time.perf_counter()
    for i in range(iterations):
        x, labels, _ = batch([random_text(rng) for _ in range(32)], rng)
        logits = model(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if i % 100 == 99:
            print(f"{i + 1:5d}  loss {loss.item():.4f}  {time.perf_counter() - began:4.0f} s", flush=True)


def decode(classes: np.ndarray) -> str:
    """A run of one class is one character; class 0 is none."""
    starts = classes[np.flatnonzero(np.diff(classes, prepend=0))]
    return "".join(ALPHABET[i] for i in starts if i)


def record(model: Listener, path: Path, rng: np.random.Generator) -> None:
    """The golden file: inputs, and what torch makes of them."""
    x, _, lengths = batch(MESSAGES, rng)
    with torch.inference_mode():
        packed = pack_padded_sequence(torch.from_numpy(x), torch.from_numpy(lengths), True, enforce_sorted=False)
        output, (h_n, c_n) = model.lstm(packed)
        output, _ = pad_packed_sequence(output, batch_first=True)
        classes = model.head(output).argmax(-1).numpy()
    for text, row, length in zip(MESSAGES, classes, lengths, strict=True):
        print(f"{length:4d} steps  {text!r} -> {decode(row[:length])!r}")
    arrays = {"output": output.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()}
    np.savez_compressed(path, x=x, lengths=lengths, batch_first=np.bool_(True), **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "fastrnn" / "data")
    parser.add_argument("--iterations", type=int, default=2500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Listener()
    train(model, args.iterations, rng)
    torch.save({"alphabet": ALPHABET, "state_dict": model.state_dict()}, args.folder / "demo.pt")
    record(model.eval(), args.folder / "demo_golden.npz", rng)
    for path in sorted(args.folder.glob("demo*")):
        print(f"{path.stat().st_size:7,d} bytes  {path}")


if __name__ == "__main__":
    main()
