"""The torch models of whole_models.py: the same attributes, the same arguments of `forward`."""

from __future__ import annotations

import torch
import whole_model_tools
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Characters(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.rnn = nn.GRU(5, hidden, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(hidden, 11)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embed(tokens), state)
        return self.head(y), state

    @staticmethod
    def loss(result, following):
        return functional.cross_entropy(result[0].reshape(-1, 11), following.reshape(-1))


class Classifier(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.embed = nn.Embedding(13, 4, padding_idx=0)
        self.rnn = nn.LSTM(4, hidden, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.head = nn.Linear(2 * hidden, 3)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (h_n, _) = self.rnn(packed)
        return self.head(self.norm(torch.cat([h_n[-2], h_n[-1]], dim=1)))

    @staticmethod
    def loss(logits, labels):
        return functional.cross_entropy(logits, labels, weight=logits.new_tensor([1.0, 0.5, 2.0]))


class Translator(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.encoder = nn.LSTM(4, hidden)
        self.decoder = nn.LSTM(4, hidden)
        self.keys = nn.Linear(hidden, hidden, bias=False)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, 9)

    def forward(self, question, lengths, written):
        packed = pack_padded_sequence(self.embed(question), lengths, enforce_sorted=False)
        packed, final = self.encoder(packed)
        states, _ = pad_packed_sequence(packed, total_length=len(question))
        y, _ = self.decoder(self.embed(written), final)
        keys = self.keys(states)
        scores = torch.einsum("unh,tnh->unt", y, keys) / keys.shape[-1] ** 0.5
        past_the_end = torch.arange(len(question)) >= lengths[:, None]
        weights = scores.masked_fill(past_the_end, -torch.inf).softmax(-1)
        context = torch.einsum("unt,tnh->unh", weights, states)
        return self.head(torch.tanh(self.mix(torch.cat([y, context], dim=-1))))

    @staticmethod
    def loss(logits, answer):
        return functional.cross_entropy(logits.reshape(-1, 9), answer.reshape(-1), label_smoothing=0.1)


class Voice(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(2, 6, 5, stride=2), nn.BatchNorm1d(6), nn.ReLU())
        self.rnn = nn.LSTM(6, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, wave):
        y = self.front(functional.pad(wave, (4, 0)))
        y, _ = self.rnn(y.transpose(1, 2))
        return self.head(y).squeeze(-1)

    @staticmethod
    def loss(p, speaks):
        return functional.mse_loss(p, speaks.to(p.dtype))


class Effect(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, sound):
        y, _ = self.rnn(sound)
        return sound + self.head(y)

    @staticmethod
    def loss(y, wanted):
        return functional.smooth_l1_loss(y, wanted.to(y.dtype), beta=0.3)


class Policy(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.torso = nn.Sequential(nn.Linear(4, 7), nn.Tanh())
        self.rnn = nn.GRU(7, hidden)
        self.policy = nn.Linear(hidden, 3)
        self.value = nn.Linear(hidden, 1)

    def forward(self, seen, begins, state):
        x, outputs = self.torso(seen), []
        for x_t, first in zip(x, begins, strict=True):
            y, state = self.rnn(x_t[None], state * ~first[:, None])
            outputs.append(y)
        y = torch.cat(outputs)
        return self.policy(y), self.value(y).squeeze(-1), state

    @staticmethod
    def loss(result, taken, worth):
        logits, value, _ = result
        of_policy = functional.cross_entropy(logits.reshape(-1, 3), taken.reshape(-1))
        return of_policy + 0.5 * functional.mse_loss(value, worth.to(value.dtype))


MODELS = {kind.__name__: kind for kind in (Characters, Classifier, Translator, Voice, Effect, Policy)}


def made(name, hidden, seed=0):
    """A model in eval mode, whose running statistics and the like are those of a model that was trained."""
    torch.manual_seed(seed)
    model = MODELS[name](hidden)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(7)
    return model.eval()


def tensors(arrays, dtype=None):
    """Arrays in a dict or tuple as tensors, those of reals in `dtype`."""
    if isinstance(arrays, dict):
        return dict(zip(arrays, tensors(tuple(arrays.values()), dtype), strict=True))
    found = (torch.from_numpy(array) for array in arrays)
    return tuple(t.to(dtype) if dtype is not None and t.is_floating_point() else t for t in found)


def results(model, arguments, targets, dtype):
    """What `whole_model_tools.results` gives, in `dtype`."""
    arguments, targets = tensors(arguments, dtype), tensors(targets, dtype)
    first = next(iter(arguments.values()))
    first = first.requires_grad_() if first.is_floating_point() else None
    y = model.to(dtype)(**arguments)
    loss = model.loss(y, *targets)
    wanted = {f"d_{name}": p for name, p in model.named_parameters()} | ({} if first is None else {"d_x": first})
    grads = torch.autograd.grad(loss, list(wanted.values()))
    found = {"loss": loss} | dict(zip(wanted, grads, strict=True))
    found |= {f"{kind}{i}": part for kind in "yv" for i, part in enumerate(whole_model_tools.parts(y))}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def train(model, name, batch):
    """What `whole_model_tools.train` gives, in float64; batch: that of fastrnn's model."""
    model.double().train(whole_model_tools.training_mode(name))
    kind, options, schedule, of_schedule, max_norm = whole_model_tools.RECIPES[name]
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    scheduler = getattr(torch.optim.lr_scheduler, schedule)(optimizer, **of_schedule)
    for step in range(whole_model_tools.STEPS):
        arguments, targets = (tensors(arrays, torch.float64) for arrays in batch(step % 3))
        loss = model.loss(model(**arguments), *targets)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        scheduler.step(*([loss.item()] if schedule == "ReduceLROnPlateau" else []))
        yield loss.item(), norm.item()
    with torch.inference_mode():
        yield model.loss(model.eval()(**arguments), *targets).item(), 0
