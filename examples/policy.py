"""A recurrent policy: a T-maze, in which what a sign at the entrance says has to be remembered until the junction.

    python policy.py                           under two minutes on one core; writes policy.png
    python policy.py --steps 50                a short try

At the entrance a sign says left or right. Behind it is a corridor of 3 to 8 fields that look alike, at its end a
junction: there the turn that the sign named is worth 1, the other one -0.1. Bumping into a wall costs 0.1. A policy
that sees only where it stands gets 0.45 an episode, one that remembers gets 1.

A GRU acts in many mazes side by side through a stream, whose rows are reset where an episode begins. The policy
gradient of a window of steps is that of one call of ``vjp`` with the same resets.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import fastrnn
from fastrnn import optim, plot

AHEAD, LEFT, RIGHT = range(3)
MAZES, WINDOW = 64, 32  # side by side; steps between two updates
DISCOUNT = 0.95
FORGETFUL = 0.45  # what an episode gives where the turn is a guess


class Mazes:
    """N mazes side by side. What is seen, (N, 4): sign to the left, sign to the right, corridor, junction."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.rng, self.n = rng, n
        self.sign, self.length, self.at = np.zeros((3, n), int)
        self.begins = np.ones(n, bool)  # an episode begins here: the state is to be reset
        self.enter(self.begins)

    def enter(self, rows: np.ndarray) -> None:
        self.sign[rows] = self.rng.choice([LEFT, RIGHT], rows.sum())
        self.length[rows] = self.rng.integers(4, 10, rows.sum())
        self.at[rows] = 0

    def seen(self) -> np.ndarray:
        junction, entrance = self.at == self.length, self.at == 0
        parts = [entrance & (self.sign == LEFT), entrance & (self.sign == RIGHT), ~entrance & ~junction, junction]
        return np.stack(parts, axis=1).astype(np.float32)

    def step(self, action: np.ndarray) -> np.ndarray:
        """The rewards (N,)."""
        junction, ahead = self.at == self.length, action == AHEAD
        over = junction & ~ahead
        reward = np.where(over, np.where(action == self.sign, 1.0, -0.1), np.where(junction == ahead, -0.1, 0.0))
        self.at += ahead & ~junction
        self.enter(over)
        self.begins = over
        return reward


class Policy(fastrnn.Module):
    def __init__(self, hidden: int = 32, rng: int | None = None) -> None:
        rng = np.random.default_rng(rng)
        self.rnn = fastrnn.GRU(4, hidden, rng=rng)
        self.head = fastrnn.Linear(hidden, 3, rng=rng)

    def act(self, mazes: Mazes, state: np.ndarray | None, steps: int, rng: np.random.Generator):
        """Go on in all mazes: what was seen (T, N, 4), where episodes began, actions and rewards (T, N); the state."""
        stream, trace = self.rnn.stream(mazes.n), []
        if state is not None:
            stream.state = state
        for _ in range(steps):
            seen, begins = mazes.seen(), mazes.begins
            stream.reset(begins)
            action = sample(self.head(stream.step(seen)), rng)
            trace.append((seen, begins, action, mazes.step(action)))
        return [np.array(part) for part in zip(*trace, strict=True)], stream.state

    def vjp(self, seen, state, begins):
        (y, _), rnn_back = self.rnn.vjp(seen, state, reset=begins, wrt="params")
        logits, head_back = self.head.vjp(y)

        def backward(d_logits):
            head = head_back(d_logits)
            parts = {"rnn": rnn_back(head.x), "head": head}
            return {f"{part}.{name}": d for part, of in parts.items() for name, d in of.params.items()}

        return logits, backward


def sample(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An action for each row."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(-1)  # drawn from softmax(logits)


def returns(reward: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """What is still to come in each step's episode, discounted; none of it after the window's end."""
    found, after = np.empty_like(reward), np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        found[t] = after = reward[t] + DISCOUNT * after
        after = np.where(begins[t], 0.0, after)  # the step before belongs to another episode
    return found


def advantages(to_come: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """How much better it went than the mean over all steps at which the same was seen."""
    place = seen.argmax(-1)
    mean = np.bincount(place.ravel(), to_come.ravel()) / np.maximum(np.bincount(place.ravel()), 1)
    return to_come - mean[place]


def policy_gradient(logits: np.ndarray, action: np.ndarray, advantage: np.ndarray, curious: float = 0.02) -> np.ndarray:
    """The gradient of -mean(advantage * log p(action) + curious * entropy) with respect to the logits."""
    p = fastrnn.Softmax(-1)(logits)
    log_p = fastrnn.LogSoftmax(-1)(logits)
    entropy = -(p * log_p).sum(-1, keepdims=True)
    taken = np.eye(logits.shape[-1])[action]
    return (advantage[..., None] * (p - taken) + curious * p * (log_p + entropy)) / action.size


def train(policy: Policy, updates: int, rng: np.random.Generator) -> list[float]:
    """For each window the mean reward of an episode."""
    optimizer = optim.Adam(policy.parameters(), lr=5e-3)
    mazes, state, found = Mazes(MAZES, rng), None, []
    for _ in range(updates):
        before = state
        (seen, begins, action, reward), state = policy.act(mazes, before, WINDOW, rng)
        logits, backward = policy.vjp(seen, before, begins)
        advantage = advantages(returns(reward, begins), seen)
        gradients, _ = optim.clip_grad_norm(backward(policy_gradient(logits, action, advantage)), 0.5)
        optimizer.step(gradients)
        ended = begins[1:].sum() + mazes.begins.sum()
        found.append(reward.sum() / max(ended, 1))
    return found


def walk(sign: int, corridor: int = 8) -> np.ndarray:
    """What is seen on the way to the junction (T, 4)."""
    return np.eye(4, dtype=np.float32)[[sign - LEFT, *[2] * corridor, 3]]


def picture(policy: Policy, found: list[float]) -> Figure:
    """The reward, and the states on two ways that differ in nothing but the sign."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    reward, *states = figure.subplots(1, 3)
    reward.plot(found)
    reward.axhline(FORGETFUL, color="gray", linestyle="dashed")
    reward.text(len(found), FORGETFUL - 0.03, "without memory", color="gray", ha="right", va="top")
    reward.set(xlabel="update", ylabel="reward of an episode", ylim=(-1, 1.05))
    order = np.argsort(np.subtract(*(policy.rnn(walk(sign))[0][-1] for sign in (LEFT, RIGHT))))
    for ax, sign, name in zip(states, (LEFT, RIGHT), ("left", "right"), strict=True):
        y, _ = policy.rnn(walk(sign))
        plot.states(y[:, order], ax=ax)
        p = fastrnn.Softmax(-1)(policy.head(y[-1]))
        ax.set_title(f"sign to the {name}: at the junction left {p[LEFT]:.0%}, right {p[RIGHT]:.0%}", fontsize="medium")
    return figure


def main(steps: int = 300, out: Path = Path()) -> None:
    rng = np.random.default_rng(0)
    policy = Policy(rng=0)
    began = time.perf_counter()
    found = train(policy, steps, rng)
    print(f"{steps} updates, {steps * WINDOW * MAZES:,} steps, in {time.perf_counter() - began:.0f} s")
    print(f"reward of an episode: {found[0]:.2f} -> {np.mean(found[-10:]):.2f}; without memory: {FORGETFUL}")
    picture(policy, found).savefig(out / "policy.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="updates")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for what is saved")
    main(**vars(parser.parse_args()))
