"""sort13: what its texts look like, that held-out problems stay out, and who is right."""

import pytest

from offaxis.tasks.chain import chain13
from offaxis.tasks.sort import sort13, verify

PROMPT, ANSWER = "Q3a70b5c2=", "02357abc$"


def test_one_base_serves_both_tasks():
    assert sort13.alphabet == chain13.alphabet
    assert (sort13.end, sort13.padding) == (chain13.end, chain13.padding)


def test_the_worked_example_is_right():
    assert verify(PROMPT, ANSWER)
    assert (len(PROMPT), len(ANSWER)) == (10, sort13.answer_length)


@pytest.mark.parametrize("completion", ["20357abc$", "02357abc", "02357ab$", "002357abc$", "$", ""])
def test_the_verifier_refuses(completion):
    assert not verify(PROMPT, completion)


def test_answers_are_right_and_held_out_problems_are_none_of_training():
    held_out = [sort13.problem(seed=5, index=index) for index in range(100)]
    learned = [sort13.document("answers", seed=5, index=index) for index in range(800)]
    for problem in (*held_out, *learned):
        assert sort13.score(problem, problem.answer) == 1
        assert sorted(problem.prompt[1:-1]) == list(problem.answer[:-1])
    assert not {p.prompt for p in held_out} & {p.prompt for p in learned}
