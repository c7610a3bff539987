"""Similarity over time on trajectories whose subspaces are planted."""

import torch

from offaxis.diagnostics.similarity import Stage, TopFactors, ranks_for, similarity


def factors(*axes: int) -> TopFactors:
    eye = torch.eye(12, dtype=torch.float64)
    s = torch.linspace(2, 0.1, 12, dtype=torch.float64)
    held = list(axes)
    return TopFactors(eye[:, held], eye[:, held].flip(1), s, torch.zeros_like(s[: len(held)]))


def test_planted_overlaps() -> None:
    stages = [
        Stage(factors(0, 1, 2, 3), factors(0, 1, 2, 3)),
        Stage(factors(0, 1, 4, 5), factors(4, 5, 6, 0)),
        Stage(factors(0, 4, 5, 7), factors(7, 8, 9, 10)),
    ]
    rows = similarity(stages, 4)
    assert [row["right_to_final"].value for row in rows] == [0.25, 0.75, 1.0]
    assert [row["left_increment"].value for row in rows] == [None, 0.25, 0.0]
    assert rows[0]["left_increment"].flags == ("first_checkpoint",)
    assert rows[2]["right_to_final"].flags == ("final_checkpoint",)
    assert all(0 <= r.error_bound < 1e-9 for row in rows for r in row.values())


def test_a_zero_update_has_no_directions() -> None:
    rows = similarity([Stage(None, None), Stage(factors(0, 1), factors(0, 1))], 2)
    assert rows[0]["right_to_final"].value is None
    assert rows[1]["right_increment"].value is None
    assert rows[1]["right_to_final"].value == 1


def test_a_tie_at_the_boundary_bounds_nothing() -> None:
    whole = factors(0, 1)
    tied = TopFactors(*whole[:2], torch.ones(12, dtype=torch.float64), whole.residuals)
    rows = similarity([Stage(tied, tied), Stage(tied, tied)], 2)
    assert rows[0]["right_to_final"].error_bound == 1


def test_ranks_follow_the_dimension() -> None:
    assert ranks_for(15) == []
    assert ranks_for(16) == [4]
    assert ranks_for(64) == [4, 16]
