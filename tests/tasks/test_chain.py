"""chain13: what its texts look like, that items depend on their key alone, and who is right."""

import random

import pytest

from offaxis.catalog import collect, find
from offaxis.errors import CatalogError
from offaxis.tasks.base import Document, GeneratedTask
from offaxis.tasks.chain import ALPHABET, apply, chain13, solution, verify
from offaxis.tasks.sort import sort13

PROMPT = "Qc+0;+5;-a;-9;-5;="
ANSWER = "c+0c+54-a7-9b-56#6$"


def test_the_alphabet_has_thirty_two_different_characters():
    assert len(ALPHABET) == len(set(ALPHABET)) == 32
    assert chain13.end in ALPHABET
    assert chain13.padding in ALPHABET


@pytest.mark.parametrize(
    ("a", "operator", "b", "result"),
    [("c", "+", "0", "c"), ("c", "+", "5", "4"), ("4", "-", "a", "7"), ("0", "-", "1", "c")],
)
def test_arithmetic_is_modulo_thirteen(a, operator, b, result):
    assert apply(a, operator, b) == result


def test_the_worked_example_is_right():
    assert solution(PROMPT) == "6"
    assert verify(PROMPT, ANSWER)
    assert (len(PROMPT), len(ANSWER)) == (18, 19)


@pytest.mark.parametrize(
    "completion",
    [
        ANSWER.replace("#6", "#5"),  # another number
        ANSWER[:-1],  # no end of text
        ANSWER.replace("#", ""),  # no mark
        "#66$",  # two numbers
        "#6+$",  # something after the number
        "#5#6$",  # the first mark counts
        "#$",  # no number
        "",
    ],
)
def test_the_verifier_refuses(completion):
    assert not verify(PROMPT, completion)


def test_the_verifier_judges_the_outcome_alone():
    assert verify(PROMPT, "#6$")
    assert verify(PROMPT, "c+0c+0c#6$")


def test_every_answer_of_the_task_satisfies_its_verifier():
    for index in range(200):
        problem = chain13.problem(seed=3, index=index)
        assert verify(problem.prompt, problem.answer)
        assert chain13.scores([problem] * 2, [problem.answer, ""]) == [1.0, 0.0]
        assert len(problem.answer) == chain13.answer_length
        assert set(problem.prompt + problem.answer) <= set(ALPHABET)


def test_each_step_of_an_answer_is_a_fact():
    answer = chain13.document("answers", seed=0, index=5).answer
    result = answer[0]
    for i in range(1, 16, 3):
        operator, operand, written = answer[i : i + 3]
        result = apply(result, operator, operand)
        assert written == result


def test_documents_of_pretraining_hold_the_parts_but_never_the_whole():
    for index in range(50):
        fact = chain13.document("facts", seed=1, index=index).answer
        assert fact[4] == apply(fact[1], fact[2], fact[3])
        copied = chain13.document("copy", seed=1, index=index).answer
        assert copied[1:17] == copied[18:34]
        reversed_ = chain13.document("reverse", seed=1, index=index).answer
        assert reversed_[1:17] == reversed_[18:34][::-1]
        chain = chain13.document("chains", seed=1, index=index).answer
        assert chain[0] == "T"
        assert "#" not in chain


def test_an_item_depends_on_its_key_alone():
    keys = [("facts", 0, 0), ("answers", 0, 0), ("answers", 0, 1), ("answers", 1, 0)]
    drawn = [chain13.document(k, seed=s, index=i) for k, s, i in keys]
    random.seed(7)
    again = [chain13.document(k, seed=s, index=i) for k, s, i in reversed(keys)]
    assert drawn == again[::-1]
    assert len(set(drawn)) == len(keys)


def test_training_and_evaluation_never_share_a_chain():
    assert all(
        chain13.held_out(chain13.problem(seed=seed, index=i)) for seed in (0, 9) for i in range(100)
    )
    for kind in ("answers", "chains"):
        documents = [chain13.document(kind, seed=0, index=i) for i in range(300)]
        assert not any(map(chain13.held_out, documents))
    # The same chain is held out under either tag.
    problem = chain13.problem(seed=0, index=0)
    assert chain13.held_out(Document("", "T" + problem.prompt[1:]))


def test_tasks_are_found_by_listing_and_unknown_ones_are_named():
    assert collect("offaxis.tasks", GeneratedTask) == {"chain13": chain13, "sort13": sort13}
    with pytest.raises(CatalogError, match="did you mean chain13"):
        find("offaxis.tasks", GeneratedTask, "chain12")
