"""Train the model of voice_activity.py, in torch: writes data/voice_activity.pt.

    python train_voice_activity.py             needs torch; about two minutes on one core

The convolutions see the past only: zeros before the first sample stand in for it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, pad, relu
from voice_activity import CHECKPOINT, recording


class VoiceActivity(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv1d(1, 24, 80, stride=40)
        self.conv2 = torch.nn.Conv1d(24, 32, 4, stride=2)
        self.lstm = torch.nn.LSTM(32, 32, batch_first=True)
        self.head = torch.nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T) -> logits (N, frames)"""
        y = x[:, None]
        for conv in (self.conv1, self.conv2):
            y = relu(conv(pad(y, (conv.kernel_size[0] - 1, 0))))
        y, _ = self.lstm(y.mT)
        return self.head(y)[:, :, 0]


def batch(rows: int, seconds: float, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x, speaks = zip(*(recording(seconds, rng) for _ in range(rows)), strict=True)
    return torch.from_numpy(np.stack(x)), torch.from_numpy(np.stack(speaks)).float()


def main(steps: int = 500, out: Path = CHECKPOINT) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = VoiceActivity()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        x, speaks = batch(16, 4.0, rng)
        loss = binary_cross_entropy_with_logits(model(x), speaks)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step:4d}  loss {loss.item():.3f}  {time.perf_counter() - began:3.0f} s", flush=True)
    x, speaks = batch(16, 10.0, rng)
    with torch.inference_mode():
        print(f"{((model(x) > 0) == speaks).float().mean():.1%} of the frames of new recordings are right")
    torch.save(model.state_dict(), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    main(**vars(parser.parse_args()))
