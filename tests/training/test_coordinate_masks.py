"""Every kind of coordinate mask against the entries it is named after."""

import pytest
import torch

from offaxis.recipe.confinement import Mask
from offaxis.training.constraints.coordinate_masks import coordinate_masks


def test_masks_hold_the_entries_they_are_named_after():
    W = torch.randn(24, 36, generator=torch.Generator().manual_seed(0))
    U, s, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    principal = (U[:, :3] * s[:3] @ Vh[:3]).abs()

    def mask(kind):
        choice = Mask(kind=kind, density=0.25, rank=3)
        return coordinate_masks(choice, {"w": W}, None, 0)["w"]

    found = {
        kind: mask(kind)
        for kind in ("principal", "low_magnitude", "not_principal", "not_principal_or_low")
    }
    assert principal[found["principal"]].min() > principal[~found["principal"]].max()
    outside = found["not_principal"]
    assert principal[outside].max() < principal[~outside].min()
    low = found["low_magnitude"]
    assert W.abs()[low].max() < W.abs()[~low].min()
    assert torch.equal(found["not_principal_or_low"], outside | low)
    for kind in ("principal", "low_magnitude", "not_principal"):
        assert int(found[kind].sum()) == 216
    assert 216 < int(found["not_principal_or_low"].sum()) < 432


@pytest.mark.parametrize("kind", ["not_principal", "not_principal_or_low"])
def test_a_mask_of_everything_is_everything(kind):
    choice = Mask(kind=kind, density=1.0, rank=2)
    assert bool(coordinate_masks(choice, {"w": torch.randn(5, 7)}, None, 0)["w"].all())
