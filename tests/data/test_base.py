"""Keyed choices: even over similar texts, and uniform where a place is tried again."""

from collections import Counter

from offaxis.data.base import is_held_out, position


def test_the_held_out_fraction_is_held_out_of_texts_that_hardly_differ():
    texts = [f"How much is {a} plus {b}?" for a in range(50) for b in range(50)]
    for fraction in (0.02, 0.3):
        share = sum(is_held_out(text, fraction) for text in texts) / len(texts)
        deviation = (fraction * (1 - fraction) / len(texts)) ** 0.5
        assert abs(share - fraction) < 4 * deviation


def test_later_attempts_are_uniform_draws():
    counts = Counter(position("k", 10, index, 1) for index in range(5000))
    assert sorted(counts) == list(range(10))
    deviation = (5000 * 0.1 * 0.9) ** 0.5
    assert all(abs(count - 500) < 4 * deviation for count in counts.values())
