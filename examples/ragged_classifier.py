"""A classifier of sequences of different length: which figure does a pen draw?

    python ragged_classifier.py                under a minute on one core; writes ragged_classifier.png
    python ragged_classifier.py --steps 50     a short try

Each step is a move of the pen, (right, up). Figures are drawn by shaky hands, slowly or fast, from any corner, either
way round, so one has 20 moves and another 80. A GRU reads them, and the mean of its output over each row's own moves is
classified.
"""

import argparse
import time
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn
from fastrnn import losses, optim, plot
from fastrnn.data import DataLoader, RaggedDataset

FIGURES = {
    "triangle": np.exp(2j * np.pi * np.arange(3) / 3),  # corners in the complex plane
    "square": np.exp(2j * np.pi * np.arange(4) / 4),
    "star": np.exp(2j * np.pi * 2 * np.arange(5) / 5),
    "circle": np.exp(2j * np.pi * np.arange(40) / 40),
    "eight": np.cos(t := 2 * np.pi * np.arange(40) / 40) + 0.6j * np.sin(2 * t),
}


def draw(corners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One drawing of a closed figure: the moves (L, 2)."""
    corners = np.roll(corners, rng.integers(len(corners))) * np.exp(1j * rng.uniform(-0.3, 0.3))
    path = np.append(corners, corners[0])[:: rng.choice([1, -1])]
    way = np.append(0, np.abs(np.diff(path)).cumsum())
    at = np.linspace(0, way[-1], rng.integers(21, 82))
    moves = np.diff(np.interp(at, way, path))
    shaky = moves / np.abs(moves).mean() + rng.normal(0, 0.25, (len(moves), 2)) @ [1, 1j]
    return np.stack([shaky.real, shaky.imag], axis=1).astype(np.float32)


def drawings(n: int, rng: np.random.Generator) -> RaggedDataset:
    labels = rng.integers(len(FIGURES), size=n)
    corners = list(FIGURES.values())
    return RaggedDataset([draw(corners[label], rng) for label in labels], labels)


def train(net: fastrnn.Sequential, batches: DataLoader, steps: int) -> list[float]:
    """The loss of every step."""
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = []
    epochs = chain.from_iterable(repeat(batches))
    for _, ((x, lengths), labels) in zip(range(steps), epochs, strict=False):
        logits, backward = net.vjp(x, lengths=lengths, wrt="params")
        loss, d_logits = losses.cross_entropy(logits, labels)
        gradients, _ = optim.clip_grad_norm(backward(d_logits).params, 1.0)
        optimizer.step(gradients)
        schedule.step()
        found.append(float(loss))
    return found


def accuracy(net: fastrnn.Sequential, dataset: RaggedDataset) -> float:
    right = [net(x, lengths=lengths).argmax(1) == labels for (x, lengths), labels in DataLoader(dataset, 64)]
    return float(np.concatenate(right).mean())


def picture(net: fastrnn.Sequential, dataset: RaggedDataset, found: list[float]) -> Figure:
    """Drawings and what they were taken for; the loss; and how sure the net is while one is being drawn."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[1, 2])
    names = list(FIGURES)
    for i, ax in enumerate(above.subplots(1, 6)):
        moves, label = dataset[i]
        guess = names[net(moves).argmax()]
        ax.plot(*moves.cumsum(0).T, color="tab:green" if guess == names[label] else "tab:red")
        ax.set_title(f"{guess}, {len(moves)} moves", fontsize="small")
        ax.set_aspect("equal", adjustable="datalim")
        ax.axis("off")
    (loss, sure), (update, reset) = below.subplots(2, 2)
    plot.loss(found, log=True, ax=loss)
    moves, label = next(item for item in dataset if item[1] == names.index("star"))
    [gates] = fastrnn.gate_activations(net[0], moves)
    so_far = gates["h"].cumsum(0) / np.arange(1, len(moves) + 1)[:, None]
    p = fastrnn.Softmax(-1)(net[2](so_far))
    for name, line in zip(names, p.T, strict=True):
        sure.plot(line, label=name)
    sure.set(xlabel="move", ylabel="probability", title="while a star is drawn")
    sure.legend(fontsize="small", frameon=False)
    for ax, gate, title in ((update, "z", "update gate z"), (reset, "r", "reset gate r")):
        ax.imshow(gates[gate].T, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
        ax.set(xlabel="move", ylabel="unit", title=title)
    return figure


def main(steps: int = 600, out: Path = Path()) -> None:
    rng = np.random.default_rng(0)
    training, test = drawings(4000, rng), drawings(1000, rng)
    gru, head = fastrnn.GRU(2, 48, rng=rng), fastrnn.Linear(48, len(FIGURES), rng=rng)
    net = fastrnn.Sequential(gru, fastrnn.MeanOverTime(), head)
    began = time.perf_counter()
    found = train(net, DataLoader(training, batch_size=64, shuffle=True, rng=rng, prefetch=2), steps)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s: loss {found[0]:.2f} -> {np.mean(found[-20:]):.3f}")
    print(f"{accuracy(net, test):.1%} of 1000 new drawings are told right")
    picture(net, test, found).savefig(out / "ragged_classifier.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
