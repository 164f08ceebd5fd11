"""Truncated backprop through time: a GRU learns a poem by heart, in windows of 25 characters, with NumPy alone.

    python examples/truncated_bptt.py

Twelve readers go round and round the poem, each from a place of its own. After every window the weights change, and
the state goes on to the next window as a plain array: what the GRU knows is carried on, gradients end at the window's
beginning. Where a reader comes to the poem's first letter, ``reset`` lets it begin with a state of zeros. In the end
the network is given the first word, and recites.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import fastrnn

POEM = """\
'Twas brillig, and the slithy toves
Did gyre and gimble in the wabe:
All mimsy were the borogoves,
And the mome raths outgrabe.

"Beware the Jabberwock, my son!
The jaws that bite, the claws that catch!
Beware the Jubjub bird, and shun
The frumious Bandersnatch!"

"""
ALPHABET = sorted(set(POEM))
CODES = np.array([ALPHABET.index(char) for char in POEM])
FIRST = POEM.split()[0]
READERS, WINDOW, UPDATES = 12, 25, 300


class Reciter:
    """A GRU over characters, and a linear layer that scores which comes next."""

    def __init__(self, hidden_size: int, rng: np.random.Generator) -> None:
        n = len(ALPHABET)
        self.one_hot = np.eye(n, dtype=np.float32)
        self.gru = fastrnn.GRU(n, hidden_size, rng=rng)
        bound = hidden_size**-0.5
        self.params = {
            **self.gru.parameters(),  # the live arrays
            "head.weight": rng.uniform(-bound, bound, (n, hidden_size)).astype(np.float32),
            "head.bias": np.zeros(n, np.float32),
        }

    def score(self, y: np.ndarray) -> np.ndarray:
        """(..., H) -> (..., n)"""
        return y @ self.params["head.weight"].T + self.params["head.bias"]

    def window(
        self, codes: np.ndarray, targets: np.ndarray, starts: np.ndarray, state: np.ndarray | None
    ) -> tuple[float, dict[str, np.ndarray], np.ndarray]:
        """Loss, gradients and the state at the end of one window; codes, targets and starts (T, N)."""
        (y, state), backward = self.gru.vjp(self.one_hot[codes], state, reset=starts, wrt="params", consume=True)
        loss, d_scores = cross_entropy(self.score(y), targets)
        grads = backward(d_scores @ self.params["head.weight"]).params
        grads["head.weight"] = np.einsum("tni,tnj->ij", d_scores, y)
        grads["head.bias"] = d_scores.sum((0, 1))
        return loss, grads, state

    def recite(self, beginning: str, n_chars: int) -> str:
        """Go on with what is likeliest, one character at a time."""
        stream, text = self.gru.stream(), beginning
        h = stream.process(self.one_hot[[ALPHABET.index(char) for char in beginning]])[-1]
        while len(text) < n_chars:
            text += ALPHABET[int(np.argmax(self.score(h)))]
            h = stream.step(self.one_hot[ALPHABET.index(text[-1])])
        return text


def cross_entropy(scores: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over all targets (T, N), and its gradient with respect to the scores (T, N, n)."""
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    at = (*np.indices(targets.shape), targets)
    loss = float(-np.log(p[at]).mean())
    p[at] -= 1
    return loss, p / targets.size


class Adam:
    """Changes arrays in place."""

    def __init__(self, params: dict[str, np.ndarray], lr: float) -> None:
        self.params, self.lr, self.t = params, lr, 0
        self.mean = {name: np.zeros_like(array) for name, array in params.items()}
        self.square = {name: np.zeros_like(array) for name, array in params.items()}

    def step(self, grads: dict[str, np.ndarray]) -> None:
        self.t += 1
        for name, array in self.params.items():
            mean, square, grad = self.mean[name], self.square[name], grads[name]
            mean += 0.1 * (grad - mean)
            square += 0.001 * (grad**2 - square)
            array -= self.lr * (mean / (1 - 0.9**self.t)) / (np.sqrt(square / (1 - 0.999**self.t)) + 1e-8)


def windows() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Characters, those that follow them, and whether a character is the poem's first; (WINDOW, READERS) each."""
    at = np.linspace(0, len(CODES), READERS, endpoint=False).astype(int) + np.arange(WINDOW)[:, None]
    while True:
        at %= len(CODES)
        yield CODES[at], CODES[(at + 1) % len(CODES)], at == 0
        at += WINDOW


def main() -> None:
    reciter = Reciter(64, np.random.default_rng(0))
    adam, state = Adam(reciter.params, lr=0.005), None
    for i, (codes, targets, starts) in zip(range(1, UPDATES + 1), windows(), strict=False):
        loss, grads, state = reciter.window(codes, targets, starts, state)
        adam.step(grads)
        reciter.gru.parameters().changed()  # they were edited in place
        if i == 1 or i % 50 == 0:
            print(f"window {i:3d}   loss {loss:.4f}   {reciter.recite(FIRST, 40)!r}")
    text = reciter.recite(FIRST, len(POEM))
    right = sum(a == b for a, b in zip(text, POEM, strict=True))
    print(f"\n{text.rstrip()}\n\n{right} of {len(POEM)} characters are the poem's")


if __name__ == "__main__":
    main()
