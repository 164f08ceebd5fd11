"""An adder: reads "37+85=", writes "122", one character after the other.

    python adder.py                            under two minutes on one core; writes adder.png
    python adder.py --steps 100                a short try

A GRU reads the question, and its final state is where a second GRU begins, which writes the answer: it is told what it
has written so far. Both read characters through one embedding, whose gradient is the sum of what comes from both.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn
from fastrnn import losses, optim, plot

ALPHABET = "0123456789+=."  # "=" ends a question and begins an answer, "." ends that
START, END = ALPHABET.index("="), ALPHABET.index(".")
NOTHING = -100  # past an answer's end, which the loss ignores


def tokens(texts: list[str], past_the_end: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Padded (T, N), and lengths (N,)."""
    rows = [np.array([ALPHABET.index(character) for character in text]) for text in texts]
    return fastrnn.pad_sequence(rows, padding_value=past_the_end), np.array([len(row) for row in rows])


class Adder(fastrnn.Module):
    def __init__(self, features: int = 24, hidden: int = 128, rng: int | None = None) -> None:
        rng = np.random.default_rng(rng)
        self.embed = fastrnn.Embedding(len(ALPHABET), features, rng=rng)
        self.encoder = fastrnn.GRU(features, hidden, rng=rng)
        self.decoder = fastrnn.GRU(features, hidden, rng=rng)
        self.head = fastrnn.Linear(hidden, len(ALPHABET), rng=rng)

    def forward(self, question, lengths, written):
        """The logits (T, N, characters) of what follows on each character written."""
        _, state = self.encoder(self.embed(question), lengths=lengths)
        y, _ = self.decoder(self.embed(written), state)
        return self.head(y)

    def vjp(self, question, lengths, written):
        """As `forward`, and the function that gives the gradients of all parameters."""
        x, embed_question = self.embed.vjp(question)
        (_, state), encode = self.encoder.vjp(x, lengths=lengths)
        x, embed_written = self.embed.vjp(written)
        (y, _), decode = self.decoder.vjp(x, state)
        logits, score = self.head.vjp(y)

        def backward(d_logits):
            head = score(d_logits)
            decoder = decode(head.x)
            encoder = encode(None, decoder.hx)  # of what the encoder gives only the final state was used
            d_embed = embed_question(encoder.x).params["weight"] + embed_written(decoder.x).params["weight"]
            parts = {"encoder": encoder, "decoder": decoder, "head": head}
            of_parts = {f"{part}.{name}": d for part, of in parts.items() for name, d in of.params.items()}
            return {"embed.weight": d_embed, **of_parts}

        return logits, backward

    def answer(self, questions: list[str], longest: int = 5) -> list[str]:
        """Write, character by character, what is likeliest."""
        question, lengths = tokens(questions)
        _, state = self.encoder(self.embed(question), lengths=lengths)
        stream = self.decoder.stream(len(questions))
        stream.state = state
        written = [np.full(len(questions), START)]
        for _ in range(longest):
            written.append(self.head(stream.step(self.embed(written[-1]))).argmax(-1))
        return ["".join(ALPHABET[i] for i in row).partition(".")[0] for row in np.array(written[1:]).T]


def train(model: Adder, sums: np.ndarray, steps: int, rng: np.random.Generator, rows: int = 128) -> list[float]:
    """The loss of every step, in nats a character."""
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = []
    for _ in range(steps):
        picked = rng.choice(sums, rows)
        question, lengths = tokens([f"{a}+{b}=" for a, b in picked])
        answer, _ = tokens([f"{a + b}." for a, b in picked], NOTHING)
        written = np.concatenate([np.full((1, rows), START), np.maximum(answer[:-1], 0)])
        logits, backward = model.vjp(question, lengths, written)
        loss, d_logits = losses.cross_entropy(logits.reshape(-1, len(ALPHABET)), answer.reshape(-1))
        gradients, _ = optim.clip_grad_norm(backward(d_logits.reshape(logits.shape)), 1.0)
        optimizer.step(gradients)
        schedule.step()
        found.append(float(loss))
    return found


def picture(model: Adder, found: list[float]) -> Figure:
    """The loss; which of all 10,000 sums are wrong; and where the encoder's final states lie."""
    sums = np.indices((100, 100)).reshape(2, -1).T
    answers = model.answer([f"{a}+{b}=" for a, b in sums])
    wrong = np.array([answer != str(a + b) for (a, b), answer in zip(sums, answers, strict=True)])
    question, lengths = tokens([f"{a}+{b}=" for a, b in sums])
    _, state = model.encoder(model.embed(question), lengths=lengths)
    centred = state[0] - state[0].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)

    figure = Figure(figsize=(13, 4), layout="constrained")
    loss, errors, states = figure.subplots(1, 3)
    plot.loss(found, log=True, ax=loss)
    errors.scatter(*sums[wrong].T, s=3, color="tab:red")
    errors.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel="first number", ylabel="second number")
    errors.set_title(f"{wrong.sum()} of all 10,000 sums are wrong")
    dots = states.scatter(*(centred @ directions[:2].T).T, s=2, c=sums.sum(1))
    states.set(xlabel="first principal component", ylabel="second", title="what the encoder hands over")
    figure.colorbar(dots, label="sum")
    return figure


def main(steps: int = 4000, out: Path = Path()) -> None:
    rng = np.random.default_rng(0)
    sums = rng.permutation([(a, b) for a in range(100) for b in range(100)])
    unseen, sums = sums[:1000], sums[1000:]
    model = Adder(rng=0)
    began = time.perf_counter()
    found = train(model, sums, steps, rng)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s: loss {found[0]:.2f} -> {np.mean(found[-20:]):.3f}")
    answers = model.answer([f"{a}+{b}=" for a, b in unseen])
    for (a, b), answer in zip(unseen[:5], answers, strict=False):
        print(f"{a}+{b}={answer}" + ("" if int(answer or 0) == a + b else f", not {a + b}"))
    right = np.array([answer == str(a + b) for (a, b), answer in zip(unseen, answers, strict=True)])
    print(f"{right.mean():.1%} of 1000 sums that it has never seen are right")
    picture(model, found).savefig(out / "adder.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
