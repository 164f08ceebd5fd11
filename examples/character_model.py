"""A character language model: trains on Shakespeare's sonnets, saves itself, and writes a few lines.

    python character_model.py                  under two minutes on one core; writes character_model.pt and .png
    python character_model.py --steps 20       a short try

An embedding, a GRU and a linear head, trained by truncated backprop through time: rows of the batch read on where the
window before ended, with the state that it left. The file that it writes is the one that `fastrnn demo` writes from.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn
from fastrnn import losses, optim, plot

TEXT = Path(__file__).parent / "data" / "sonnets.txt"  # Shakespeare, 1609: in the public domain


class CharacterModel(fastrnn.Module):
    """Logits of the next character, and the state to go on from."""

    def __init__(self, characters: int, features: int = 48, hidden: int = 192, rng: int | None = None) -> None:
        rng = np.random.default_rng(rng)
        self.embed = fastrnn.Embedding(characters, features, rng=rng)
        self.rnn = fastrnn.GRU(features, hidden, rng=rng)
        self.head = fastrnn.Linear(hidden, characters, rng=rng)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embed(tokens), state)
        return self.head(y), state

    def vjp(self, tokens, state=None):
        """As `forward`, and the function that gives the gradients of all parameters."""
        x, embed_back = self.embed.vjp(tokens, wrt="params")
        (y, state), rnn_back = self.rnn.vjp(x, state, wrt=("x", "params"))
        logits, head_back = self.head.vjp(y)

        def backward(d_logits):
            head = head_back(d_logits)
            rnn = rnn_back(head.x)
            embed = embed_back(rnn.x)
            parts = {"embed": embed, "rnn": rnn, "head": head}
            return {f"{part}.{name}": d for part, of in parts.items() for name, d in of.params.items()}

        return (logits, state), backward


def train(model: CharacterModel, tokens: np.ndarray, steps: int, rows: int = 32, window: int = 64) -> list[float]:
    """The loss of every step, in nats a character."""
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    columns = tokens[: len(tokens) // rows * rows].reshape(rows, -1).T  # (T, N): each row a part of the text
    found, state, start = [], None, 0
    for _ in range(steps):
        if start + window >= len(columns):
            state, start = None, 0
        x, target = columns[start : start + window], columns[start + 1 : start + window + 1]
        (logits, state), backward = model.vjp(x, state)
        loss, d_logits = losses.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
        gradients, _ = optim.clip_grad_norm(backward(d_logits.reshape(logits.shape)), 1.0)
        optimizer.step(gradients)
        schedule.step()
        found.append(float(loss))
        start += window
    return found


def write(model: CharacterModel, alphabet: str, start: str, n: int, temperature: float = 0.6, seed: int = 0) -> str:
    """`start`, and `n` characters that the model thinks of, one step of a stream each."""
    rng = np.random.default_rng(seed)
    stream, text = model.rnn.stream(), start
    for character in start[:-1]:
        stream.step(model.embed(alphabet.index(character)))
    for _ in range(n):
        logits = model.head(stream.step(model.embed(alphabet.index(text[-1]))))
        p = np.exp((logits - logits.max()).astype(float) / temperature)
        text += alphabet[rng.choice(len(alphabet), p=p / p.sum())]
    return text


def picture(model: CharacterModel, alphabet: str, found: list[float], line: str) -> Figure:
    """The loss; and at each character of a line, what the model expects to follow on it."""
    p = fastrnn.Softmax(-1)(model(np.array([alphabet.index(c) for c in line]))[0])
    likely = np.sort(p.max(0).argsort()[-24:])  # the characters that are expected anywhere
    figure = Figure(figsize=(13, 5), layout="constrained")
    loss, following = figure.subplots(1, 2, width_ratios=[1, 2])
    plot.loss(found, ax=loss)
    image = following.imshow(p[:, likely].T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    following.set_xticks(range(len(line)), line)
    names = {"\n": "new line", " ": "space"}
    following.set_yticks(range(len(likely)), [names.get(alphabet[i], alphabet[i]) for i in likely])
    following.set(xlabel="what was read", ylabel="what follows")
    figure.colorbar(image, label="probability")
    return figure


def main(steps: int = 1800, out: Path = Path()) -> None:
    text = TEXT.read_text()
    alphabet = "".join(sorted(set(text)))
    tokens = np.array([alphabet.index(c) for c in text])
    model = CharacterModel(len(alphabet), rng=0)
    began = time.perf_counter()
    found = train(model, tokens, steps)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s: loss {found[0]:.2f} -> {np.mean(found[-20:]):.2f}")
    halves = {name: array.astype(np.float16) for name, array in model.state_dict().items()}  # enough to write with
    fastrnn.save({"state_dict": halves, "alphabet": alphabet}, out / "character_model.pt")
    picture(model, alphabet, found, "Shall I compare thee to a summer's day?").savefig(out / "character_model.png")
    print(write(model, alphabet, "Shall I compare thee", 400))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
