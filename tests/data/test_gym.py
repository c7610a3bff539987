"""reasoning-gym: keyed items, sides that share no question, credit that is not success."""

import pytest

from offaxis.errors import RecipeError

pytest.importorskip("reasoning_gym")

from offaxis.data.gym import GymRecords

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def opened(name="chain_sum", threshold=1.0, held_out=0.2, **settings):
    return GymRecords(name, settings, threshold=threshold, held_out=held_out)


def test_an_item_depends_on_its_key_alone():
    one, two = opened(), opened()
    keys = [(0, 0), (0, 1), (1, 0), (0, 7)]
    drawn = [one.training(seed=s, index=i) for s, i in keys]
    assert drawn == [two.training(seed=s, index=i) for s, i in reversed(keys)][::-1]
    assert len({record.prompt for record in drawn}) == len(keys)
    # With seeds alone a neighbour's stream would be this one, moved by an item.
    assert one.training(seed=1, index=0).prompt != one.training(seed=0, index=1).prompt


def test_training_and_evaluation_share_no_question_even_where_there_are_few():
    records = opened(**SMALL)
    train = {records.training(seed=0, index=i).prompt for i in range(400)}
    held = {records.held_out(seed=9, index=i).prompt for i in range(100)}
    assert train.isdisjoint(held)
    assert len(train) > 50
    assert len(held) > 5


def test_partial_credit_is_no_success():
    records = opened()
    record = records.training(seed=0, index=0)
    right = record.completion
    assert records.judge(record.item, f" {right} ") == 1.0
    assert records.judge(record.item, f"<answer>{right}</answer> that is all") == 1.0
    assert records.judge(record.item, f"perhaps {right}") == 0.0
    assert opened(threshold=0.1).judge(record.item, f"perhaps {right}") == 1.0
    assert records.judge(record.item, "") == 0.0


def test_unknown_generators_and_settings_are_refused():
    with pytest.raises(RecipeError, match="chain_sum"):
        opened("chain_product")
    with pytest.raises(RecipeError, match="min_termz"):
        opened(min_termz=2)
    with pytest.raises(RecipeError, match="gym_settings"):
        opened(min_terms=9, max_terms=2)
    with pytest.raises(RecipeError, match="on both sides"):
        opened(held_out=1e-9, **SMALL).held_out(seed=0, index=0)
