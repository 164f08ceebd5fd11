"""The parts of the examples that train: gradients, and the worlds that they train in."""

from __future__ import annotations

import importlib.util
import wave
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import losses

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def models():
    """Small ones in float64, and arguments of a call."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 13, (5, 3))
    state = rng.normal(size=(1, 3, 6))
    yield "character_model", "CharacterModel", {"characters": 13, "features": 4}, (tokens, state)
    yield "adder", "Adder", {"features": 4}, (tokens, [5, 2, 4], rng.integers(0, 13, (4, 3)))
    yield "audio_effect", "Effect", {}, (rng.normal(size=(5, 3, 1)), (state, rng.normal(size=(1, 3, 6))))
    yield "policy", "Policy", {}, (rng.normal(size=(5, 3, 4)), state, rng.random((5, 3)) < 0.3)


@pytest.mark.parametrize(
    ("name", "kind", "sizes", "arguments"), [*models()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_models_gradients(name, kind, sizes, arguments):
    """By differences of the fourth order, along a random direction in the space of all parameters."""
    model = getattr(load(name), kind)(hidden=6, rng=0, **sizes).to("float64")
    rng, parameters = np.random.default_rng(1), model.parameters()
    direction = {key: rng.normal(size=array.shape) for key, array in parameters.items()}

    def result():
        """What a model gives, without its state."""
        y, backward = model.vjp(*arguments)
        return (y[0] if isinstance(y, tuple) else y), backward

    def loss(step):
        for key, array in parameters.items():
            array += step * direction[key]
        parameters.changed()
        value = (result()[0] * d_y).sum()
        for key, array in parameters.items():
            array -= step * direction[key]
        parameters.changed()
        return value

    y, backward = result()
    d_y = rng.normal(size=y.shape)
    gradients = backward(d_y)
    assert list(gradients) == list(parameters)
    h = 1e-3
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert slope == pytest.approx(sum((gradients[key] * direction[key]).sum() for key in direction), rel=1e-8)


@pytest.mark.parametrize(
    ("name", "kind", "sizes", "arguments"), [*models()][:3], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_call_gives_what_vjp_gives(name, kind, sizes, arguments):
    model = getattr(load(name), kind)(hidden=6, rng=0, **sizes)
    called, (traced, _) = model(*arguments), model.vjp(*arguments)
    called, traced = (y[0] if isinstance(y, tuple) else y for y in (called, traced))
    np.testing.assert_array_equal(called, traced)


def test_the_adder_writes_what_is_likeliest():
    """The answer, given as what was written, is at each step the likeliest continuation."""
    example = load("adder")
    model, questions = example.Adder(hidden=16, rng=3), ["1+2=", "37+85=", "6+50="]
    question, lengths = example.tokens(questions)
    for row, answer in enumerate(model.answer(questions)):
        written = np.array([example.START, *(example.ALPHABET.index(c) for c in answer)])
        likeliest = model(question, lengths, np.tile(written[:, None], 3)).argmax(-1)[:, row]
        np.testing.assert_array_equal(likeliest[: len(answer)], written[1:])
        assert len(answer) == 5 or likeliest[len(answer)] == example.END


def test_a_maze():
    example = load("policy")
    mazes = example.Mazes(4, np.random.default_rng(0))
    mazes.sign[:], mazes.length[:] = [example.LEFT, example.RIGHT, example.LEFT, example.RIGHT], 2
    assert mazes.begins.all()
    assert mazes.seen().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]] * 2
    assert mazes.step(np.array([0, 0, 0, 1])).tolist() == [0, 0, 0, -0.1]  # the last one bumps into the wall
    assert mazes.seen().argmax(1).tolist() == [2, 2, 2, 1]
    assert not mazes.begins.any()
    assert mazes.step(np.zeros(4, int)).tolist() == [0, 0, 0, 0]
    assert mazes.seen().argmax(1).tolist() == [3, 3, 3, 2]
    reward = mazes.step(np.array([example.LEFT, example.LEFT, example.AHEAD, example.AHEAD]))
    assert reward.tolist() == [1, -0.1, -0.1, 0]
    assert mazes.begins.tolist() == [True, True, False, False]
    assert mazes.seen().argmax(1)[2:].tolist() == [3, 3]


def test_returns_end_with_the_episode():
    example = load("policy")
    reward = np.array([[0.0, 1.0, 0.0, 2.0]]).T
    begins = np.array([[True, False, True, False]]).T
    assert example.returns(reward, begins)[:, 0] == pytest.approx([0.95, 1, 1.9, 2])


def test_the_policy_gradient():
    example, rng = load("policy"), np.random.default_rng(0)
    logits, direction = rng.normal(size=(2, 4, 3, 3))
    action, advantage = rng.integers(0, 3, (4, 3)), rng.normal(size=(4, 3))

    def loss(step):
        log_p = fastrnn.LogSoftmax(-1)(logits + step * direction)
        taken = np.take_along_axis(log_p, action[..., None], -1)[..., 0]
        entropy = -(np.exp(log_p) * log_p).sum(-1)
        return -(advantage * taken + 0.02 * entropy).mean()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert slope == pytest.approx((example.policy_gradient(logits, action, advantage) * direction).sum(), rel=1e-6)
    assert losses.cross_entropy(logits.reshape(-1, 3), action.reshape(-1))[1] == pytest.approx(
        example.policy_gradient(logits, action, np.ones((4, 3)), 0).reshape(-1, 3)
    )


def test_the_policy_goes_on_where_the_window_before_ended():
    """The logits of `vjp` are those by which the policy acted, resets and the state between windows included."""
    example = load("policy")
    policy, state = example.Policy(hidden=8, rng=0), None
    mazes = example.Mazes(5, np.random.default_rng(0))
    for _ in range(3):
        before = state
        draws = np.random.default_rng(7)
        (seen, begins, action, _), state = policy.act(mazes, before, 40, draws)
        logits, _ = policy.vjp(seen, before, begins)
        again = np.random.default_rng(7)
        np.testing.assert_array_equal(action, [example.sample(row, again) for row in logits])
    assert begins.any()


def test_a_drawing_is_a_closed_figure():
    example, rng = load("ragged_classifier"), np.random.default_rng(0)
    for corners in example.FIGURES.values():
        moves = np.array([example.draw(corners, rng).sum(0) for _ in range(200)])
        assert np.abs(moves.mean(0)).max() < 0.5
        assert {20 <= len(example.draw(corners, rng)) <= 80 for _ in range(100)} == {True}


def test_sound_comes_block_by_block(tmp_path):
    example, rng = load("audio_effect"), np.random.default_rng(0)
    model, dry = example.Effect(rng=0), example.guitar(0.1, rng)
    wet, took = example.play(model, dry)
    np.testing.assert_allclose(wet, model(dry[:, None])[0][:, 0], atol=1e-6)
    assert len(took) == -(-len(dry) // example.BLOCK)
    example.write_wav(tmp_path / "x.wav", wet)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (44_100, 1, len(dry))
        samples = np.frombuffer(file.readframes(len(dry)), "<i2")
    np.testing.assert_allclose(samples / 32767, wet.clip(-1, 1), atol=1 / 32767)


def test_a_string_sounds_at_its_pitch():
    example = load("audio_effect")
    sound = example.pluck(110.0, 1.0, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound[-32768:]))
    assert spectrum.argmax() * example.RATE / 32768 / 110 == pytest.approx(round(spectrum.argmax() / 81.7), rel=0.02)


@pytest.mark.parametrize("frames", [1, 3, 50])
def test_voice_in_chunks_is_voice_as_a_whole(frames):
    example = load("voice_activity")
    model = example.VoiceActivity()
    model.load_state_dict(fastrnn.load(example.CHECKPOINT))
    x, _ = example.recording(2.0, np.random.default_rng(0))
    listener = example.Listener(model)
    chunks = np.split(x, range(frames * example.FRAME, len(x), frames * example.FRAME))
    np.testing.assert_allclose(np.concatenate([listener.hear(chunk) for chunk in chunks]), model(x), atol=1e-5)


def test_checkpoints_of_examples_are_small():
    assert (EXAMPLES / "data" / "voice_activity.pt").stat().st_size < 100_000
