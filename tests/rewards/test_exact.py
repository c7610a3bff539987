"""The exact answer: what is extracted, what counts as the same, what cannot be judged."""

import pytest

from offaxis.catalog import collect
from offaxis.rewards.base import Reward
from offaxis.rewards.exact import exact
from offaxis.tasks.base import Document


def judge(reference, completion, **settings):
    return exact(**settings)([Document("q", "", reference)], [completion], key="")[0]


@pytest.mark.parametrize(
    ("settings", "completion", "score"),
    [
        ({}, " 34\n", 1.0),
        ({}, "It is 34", 0.0),
        ({"extract": "marker"}, "Answer: 7\nno,\nAnswer: $34$.\nDone", 1.0),
        ({"extract": "marker"}, "Answer: 34\nAnswer: 35", 0.0),
        ({"extract": "marker"}, "34", 0.0),
        ({"extract": "marker", "marker": "####"}, "so #### 34", 1.0),
        ({"extract": "boxed"}, r"\boxed{1} then $\boxed{34}$.", 1.0),
        ({"extract": "boxed"}, r"\boxed{34", 0.0),
        ({"extract": "boxed"}, "34", 0.0),
    ],
)
def test_the_final_answer_is_what_the_setting_says(settings, completion, score):
    assert judge("34", completion, **settings) == score


def test_braces_inside_a_box_are_counted():
    assert judge(r"\frac{1}{2}", r"$\boxed{\frac{1}{2}}$ as {shown}", extract="boxed") == 1.0


def test_spaces_width_and_capitals_are_no_difference_unless_asked():
    assert judge("New York", "new \n york.") == 1.0
    assert judge("\uff11\uff12", "12") == 1.0  # full-width digits
    assert judge("New York", "new york", ignore_case=False) == 0.0


def test_without_a_reference_there_is_no_judgement():
    assert judge("", "34") is None


def test_every_reward_is_found_and_names_its_source():
    rewards = collect("offaxis.rewards", Reward)
    assert set(rewards) == {"code", "exact", "math", "random"}
    assert [name for name, item in rewards.items() if not item.is_rule] == ["random"]
    assert all(item.source and item.summary for item in rewards.values())
