"""Six whole models, as users write them: what several tests hold to the torch models in whole_models_torch.py.

Each has `forward` and `vjp` of the same arguments; ``batch(seed)``, a dict of these arguments and the targets; and
``loss(result, *targets)``, the loss and its gradient with respect to the result. Some have `streamed`: what `forward`
gives, from pieces of the input that come one after the other.
"""

from __future__ import annotations

import numpy as np

import fastrnn
from fastrnn import losses

#: Rows of a batch, steps; units of the models whose results are recorded.
N, T, HIDDEN = 3, 10, 5


def named(**grads):
    """The gradients of parts, under the names that the model has for them."""
    return {f"{part}.{name}": d for part, of_part in grads.items() for name, d in of_part.params.items()}


class Characters(fastrnn.Module):
    """A character language model."""

    def __init__(self, hidden):
        self.embed = fastrnn.Embedding(11, 5)
        self.rnn = fastrnn.GRU(5, hidden, num_layers=2, batch_first=True, dropout=0.2)
        self.head = fastrnn.Linear(hidden, 11)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embed(tokens), state)
        return self.head(y), state

    def vjp(self, tokens, state=None):
        x, embed_back = self.embed.vjp(tokens)
        (y, state), rnn_back = self.rnn.vjp(x, state)
        logits, head_back = self.head.vjp(y)

        def backward(d):
            d_logits, d_state = d
            head = head_back(d_logits)
            rnn = rnn_back(head.x, d_state)
            return fastrnn.Gradients(None, named(embed=embed_back(rnn.x), rnn=rnn, head=head))

        return (logits, state), backward

    def streamed(self, tokens, state=None):
        stream = self.rnn.stream(len(tokens))
        if state is not None:
            stream.state = state
        logits = [self.head(stream.step(self.embed(column))) for column in tokens.T]
        return np.stack(logits, axis=1), stream.state

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        text = rng.integers(0, 11, (N, T + 1))
        state = rng.uniform(-1, 1, (2, N, self.rnn.hidden_size)).astype(np.float32)
        return {"tokens": text[:, :-1], "state": state}, (text[:, 1:],)

    @staticmethod
    def loss(result, following):
        logits, state = result
        loss, d = losses.cross_entropy(logits.reshape(-1, 11), following.reshape(-1))
        return loss, (d.reshape(logits.shape), np.zeros_like(state))


class Classifier(fastrnn.Module):
    """A classifier of sequences of different length: from the final state of both directions."""

    def __init__(self, hidden):
        self.embed = fastrnn.Embedding(13, 4, padding_idx=0)
        self.rnn = fastrnn.LSTM(4, hidden, batch_first=True, bidirectional=True)
        self.norm = fastrnn.LayerNorm(2 * hidden)
        self.head = fastrnn.Linear(2 * hidden, 3)

    def forward(self, tokens, lengths):
        return self.vjp(tokens, lengths)[0]

    def vjp(self, tokens, lengths):
        x, embed_back = self.embed.vjp(tokens)
        (_, (h_n, _)), rnn_back = self.rnn.vjp(x, lengths=lengths)
        normed, norm_back = self.norm.vjp(np.concatenate([h_n[0], h_n[1]], axis=1))
        logits, head_back = self.head.vjp(normed)

        def backward(d):
            head = head_back(d)
            norm = norm_back(head.x)
            rnn = rnn_back(None, (np.stack(np.split(norm.x, 2, axis=1)), None))
            return fastrnn.Gradients(None, named(embed=embed_back(rnn.x), rnn=rnn, norm=norm, head=head))

        return logits, backward

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        lengths = rng.permutation([T, T // 2, 1])
        tokens = rng.integers(0, 13, (N, T)) * (np.arange(T) < lengths[:, None])  # padding in between, too
        return {"tokens": tokens, "lengths": lengths}, (rng.integers(0, 3, N),)

    @staticmethod
    def loss(logits, labels):
        return losses.cross_entropy(logits, labels, weight=[1.0, 0.5, 2.0])


class Translator(fastrnn.Module):
    """A sequence to a sequence: what the decoder writes next depends on an average over all states of the encoder."""

    def __init__(self, hidden):
        self.embed = fastrnn.Embedding(9, 4)
        self.encoder = fastrnn.LSTM(4, hidden)
        self.decoder = fastrnn.LSTM(4, hidden)
        self.keys = fastrnn.Linear(hidden, hidden, bias=False)
        self.mix = fastrnn.Linear(2 * hidden, hidden)
        self.head = fastrnn.Linear(hidden, 9)
        self.softmax, self.tanh = fastrnn.Softmax(-1), fastrnn.Tanh()

    def forward(self, question, lengths, written):
        return self.vjp(question, lengths, written)[0]

    def vjp(self, question, lengths, written):
        x, question_back = self.embed.vjp(question)
        (states, final), encoder_back = self.encoder.vjp(x, lengths=lengths)
        x, written_back = self.embed.vjp(written)
        (y, _), decoder_back = self.decoder.vjp(x, final)

        # Of each step u of the answer, to each step t of the question.
        keys, keys_back = self.keys.vjp(states)
        scale = keys.shape[-1] ** -0.5
        scores = np.einsum("unh,tnh->unt", y, keys) * scale
        scores[:, np.arange(len(keys)) >= np.asarray(lengths)[:, None]] = -np.inf
        weights, softmax_back = self.softmax.vjp(scores)
        context = np.einsum("unt,tnh->unh", weights, states)

        mixed, mix_back = self.mix.vjp(np.concatenate([y, context], axis=-1))
        squashed, tanh_back = self.tanh.vjp(mixed)
        logits, head_back = self.head.vjp(squashed)

        def backward(d):
            head = head_back(d)
            mix = mix_back(tanh_back(head.x).x)
            d_y, d_context = np.split(mix.x, 2, axis=-1)
            d_scores = softmax_back(np.einsum("unh,tnh->unt", d_context, states)).x * scale
            d_y = d_y + np.einsum("unt,tnh->unh", d_scores, keys)
            of_keys = keys_back(np.einsum("unt,unh->tnh", d_scores, y))
            d_states = np.einsum("unt,unh->tnh", weights, d_context) + of_keys.x
            decoder = decoder_back(d_y)
            encoder = encoder_back(d_states, decoder.hx)
            d_embed = question_back(encoder.x).params["weight"] + written_back(decoder.x).params["weight"]
            params = named(encoder=encoder, decoder=decoder, keys=of_keys, mix=mix, head=head)
            return fastrnn.Gradients(None, {"embed.weight": d_embed} | params)

        return logits, backward

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        question, answer = rng.integers(0, 9, (T, N)), rng.integers(0, 9, (T - 3, N))
        written = np.concatenate([np.zeros((1, N), int), answer[:-1]])
        answer[-2:, 1] = -100  # a shorter one
        return {"question": question, "lengths": rng.permutation([T, T - 4, 2]), "written": written}, (answer,)

    @staticmethod
    def loss(logits, answer):
        loss, d = losses.cross_entropy(logits.reshape(-1, 9), answer.reshape(-1), label_smoothing=0.1)
        return loss, d.reshape(logits.shape)


class Voice(fastrnn.Module):
    """Shaped like a detector of voices: a probability for every other step of a wave, from the past alone."""

    def __init__(self, hidden):
        self.front = fastrnn.Sequential(fastrnn.Conv1d(2, 6, 5, stride=2), fastrnn.BatchNorm1d(6), fastrnn.ReLU())
        self.rnn = fastrnn.LSTM(6, hidden, batch_first=True)
        self.head = fastrnn.Sequential(fastrnn.Linear(hidden, 1), fastrnn.Sigmoid())

    def forward(self, wave):
        y = self.front(np.pad(wave, ((0, 0), (0, 0), (4, 0))))
        y, _ = self.rnn(y.swapaxes(1, 2))
        return self.head(y)[..., 0]

    def vjp(self, wave):
        y, front_back = self.front.vjp(np.pad(wave, ((0, 0), (0, 0), (4, 0))))
        (y, _), rnn_back = self.rnn.vjp(y.swapaxes(1, 2))
        p, head_back = self.head.vjp(y)

        def backward(d):
            head = head_back(d[..., None])
            rnn = rnn_back(head.x)
            front = front_back(rnn.x.swapaxes(1, 2))
            return fastrnn.Gradients(front.x[..., 4:], named(front=front, rnn=rnn, head=head))

        return p[..., 0], backward

    def streamed(self, wave):
        conv, rnn = self.front[0].stream(len(wave)), self.rnn.stream(len(wave))
        found = []
        for chunk in np.split(wave, [2, 8, 16], axis=-1):
            y = self.front[1:](conv.process(chunk))
            found.append(self.head(rnn.process(y.swapaxes(1, 2)))[..., 0])
        return np.concatenate(found, axis=1)

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        return {"wave": rng.normal(size=(N, 2, 2 * T)).astype(np.float32)}, (rng.integers(0, 2, (N, T)),)

    @staticmethod
    def loss(p, speaks):
        return losses.mse_loss(p, speaks)


class Effect(fastrnn.Module):
    """An audio effect: what is added to the sound."""

    def __init__(self, hidden):
        self.rnn = fastrnn.LSTM(1, hidden, batch_first=True)
        self.head = fastrnn.Linear(hidden, 1)

    def forward(self, sound):
        y, _ = self.rnn(sound)
        return sound + self.head(y)

    def vjp(self, sound):
        (y, _), rnn_back = self.rnn.vjp(sound)
        change, head_back = self.head.vjp(y)

        def backward(d):
            head = head_back(d)
            rnn = rnn_back(head.x)
            return fastrnn.Gradients(d + rnn.x, named(rnn=rnn, head=head))

        return sound + change, backward

    def streamed(self, sound):
        stream = self.rnn.stream(len(sound))
        return np.concatenate(
            [block + self.head(stream.process(block)) for block in np.split(sound, [1, 5, 6], axis=1)], axis=1
        )

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        sound = rng.normal(size=(N, 2 * T, 1)).astype(np.float32)
        return {"sound": sound}, (np.tanh(3 * sound),)

    @staticmethod
    def loss(y, wanted):
        return losses.smooth_l1_loss(y, wanted, beta=0.3)


class Policy(fastrnn.Module):
    """A recurrent policy and value of several games side by side, in which episodes begin at any step."""

    def __init__(self, hidden):
        self.torso = fastrnn.Sequential(fastrnn.Linear(4, 7), fastrnn.Tanh())
        self.rnn = fastrnn.GRU(7, hidden)
        self.policy = fastrnn.Linear(hidden, 3)
        self.value = fastrnn.Linear(hidden, 1)

    def forward(self, seen, begins, state):
        y, state = self.rnn(self.torso(seen), state, reset=begins)
        return self.policy(y), self.value(y)[..., 0], state

    def vjp(self, seen, begins, state):
        x, torso_back = self.torso.vjp(seen)
        (y, state), rnn_back = self.rnn.vjp(x, state, reset=begins)
        logits, policy_back = self.policy.vjp(y)
        value, value_back = self.value.vjp(y)

        def backward(d):
            d_logits, d_value, d_state = d
            policy, value = policy_back(d_logits), value_back(d_value[..., None])
            rnn = rnn_back(policy.x + value.x, d_state)
            torso = torso_back(rnn.x)
            return fastrnn.Gradients(torso.x, named(torso=torso, rnn=rnn, policy=policy, value=value))

        return (logits, value[..., 0], state), backward

    def streamed(self, seen, begins, state):
        stream, found = self.rnn.stream(seen.shape[1]), []
        stream.state = state
        for now, first in zip(seen, begins, strict=True):
            stream.reset(first)
            y = stream.step(self.torso(now))
            found.append((self.policy(y), self.value(y)[:, 0]))
        logits, values = zip(*found, strict=True)
        return np.stack(logits), np.stack(values), stream.state

    def batch(self, seed):
        rng = np.random.default_rng(seed)
        seen = rng.normal(size=(T, N, 4)).astype(np.float32)
        begins = rng.random((T, N)) < 0.2
        begins[0, 0] = True
        state = rng.uniform(-1, 1, (1, N, self.rnn.hidden_size)).astype(np.float32)
        targets = rng.integers(0, 3, (T, N)), rng.normal(size=(T, N)).astype(np.float32)
        return {"seen": seen, "begins": begins, "state": state}, targets

    @staticmethod
    def loss(result, taken, worth):
        logits, value, state = result
        of_policy, d_logits = losses.cross_entropy(logits.reshape(-1, 3), taken.reshape(-1))
        of_value, d_value = losses.mse_loss(value, worth)
        return of_policy + 0.5 * of_value, (d_logits.reshape(logits.shape), 0.5 * d_value, np.zeros_like(state))


MODELS = {kind.__name__: kind for kind in (Characters, Classifier, Translator, Voice, Effect, Policy)}
