"""When a float32 result that missed the tolerance is let through: the rule of all comparisons with torch."""

from __future__ import annotations


def is_bad_luck(problems, config, backend):
    """Whether a float32 result missed the tolerance narrowly, and only for these weights and inputs.

    Torch's largest rounding error, which the tolerance is made of, is itself a matter of luck: 16 of the grid's 235,872
    configurations were seen to miss it, by less than half. What is wrong fails for other draws too.

    problems : function
        ``problems(config, draw=0, times=1)`` tells which backends are off by more than so many times the tolerance.
    """
    if config.dtype != "float32" or backend in problems(config, times=1.5):
        return False
    return sum(backend in problems(config, draw=draw) for draw in range(1, 11)) <= 2
