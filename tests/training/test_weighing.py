"""Controls of the tokens and of the mixture, as settings of a real run."""

import math

import pytest
import torch

from offaxis.errors import RecipeError
from offaxis.runs import RunFolder
from offaxis.training import train
from offaxis.training.mixing import Mixture


def lines(folder: RunFolder) -> list[dict]:
    return [line for line in folder.log() if line["step"]]


@pytest.fixture(scope="module")
def free(arm, tmp_path_factory):
    """OPD without a control, and where its models are kept."""
    out = tmp_path_factory.mktemp("free")
    return train(arm("opd"), out), out


def weights(folder: RunFolder) -> bytes:
    return (folder.checkpoint(folder.steps()[-1]) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("by", ["log_ratio", "entropy", "divergence", "random"])
def test_a_fraction_of_every_samples_tokens_is_kept_and_counted(arm, free, by):
    recipe = arm("opd", name=f"keep-{by}", tokens={"keep": 0.4, "by": by, "compensate": False})
    folder = train(recipe, free[1])
    for line, whole in zip(lines(folder), lines(free[0]), strict=True):
        # Five tokens at most a sample, each count rounded up on its own.
        assert 0.4 * line["tokens"] <= line["kept_tokens"] <= 0.4 * line["tokens"] + 4
        assert line["kept_tokens"] < whole["tokens"]
    assert weights(folder) != weights(free[0])


def test_all_tokens_kept_is_the_run_without_the_control(arm, free):
    recipe = arm("opd", name="keep-all", tokens={"keep": 1.0, "by": "random"})
    assert weights(train(recipe, free[1])) == weights(free[0])


def test_the_kept_tokens_do_not_depend_on_how_a_step_is_split(arm, free):
    tokens = {"keep": 0.5, "by": "divergence"}
    whole = train(arm("opd", name="whole", tokens=tokens), free[1])
    split = train(arm("opd", name="split", tokens=tokens, optimizer={"micro_batches": 2}), free[1])
    for one, other in zip(lines(whole), lines(split), strict=True):
        assert one["kept_tokens"] == other["kept_tokens"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)


def test_scores_of_a_teacher_need_one(arm):
    with pytest.raises(RecipeError, match="teacher"):
        arm("grpo", tokens={"keep": 0.5, "by": "log_ratio"})


class TestMixed:
    def recipe(self, arm, **changes):
        objective = {"kind": "mixed"} | changes.pop("objective", {})
        rewards = {"kind": "random"}
        return arm("opd", objective=objective, rewards=rewards, **changes)

    @pytest.mark.parametrize("form", ["loss", "advantages", "additive"])
    def test_logs_the_components_gradients(self, arm, free, form):
        recipe = self.recipe(arm, name=f"mixed-{form}", objective={"form": form})
        found = lines(train(recipe, free[1]))
        # A coin may give all rollouts of a step the same reward.
        assert max(line["gradient_norm_grpo"] for line in found) > 0
        for line in found:
            assert line["gradient_norm_opd"] > 0
            assert -1 <= line["component_cosine"] <= 1

    def test_at_alpha_one_it_is_distillation(self, arm, free):
        recipe = self.recipe(arm, name="all-opd", objective={"alpha": 1.0})
        mixed, pure = lines(train(recipe, free[1])), lines(free[0])
        assert [line["loss"] for line in mixed] == pytest.approx([line["loss"] for line in pure])

    def test_matched_gradients_do_not_depend_on_how_a_step_is_split(self, arm, free):
        objective = {"match_norms": True}
        ends = []
        for parts in (1, 2):
            recipe = self.recipe(
                arm,
                name=f"matched-{parts}",
                objective=objective,
                optimizer={"micro_batches": parts},
                precision={"autocast": "none"},
                steps={"max": 1},
            )
            ends.append(lines(train(recipe, free[1]))[-1])
        assert ends[0]["component_cosine"] == pytest.approx(ends[1]["component_cosine"], abs=1e-4)
        assert ends[0]["update_norm"] == pytest.approx(ends[1]["update_norm"], rel=1e-3)


def test_a_matched_mixture_has_components_of_one_length():
    """Gradients of lengths 5 and 10: half of each, the second brought to the first's length."""
    from offaxis.objectives.base import Component, Streams

    weight = torch.nn.Parameter(torch.zeros(2))
    mixture = Mixture([weight], 1)
    mixture.add("one", (weight * torch.tensor([3.0, 4.0])).sum())
    mixture.add("other", (weight * torch.tensor([-8.0, 6.0])).sum())
    components = {"one": Component(0.5, Streams()), "other": Component(0.5, Streams())}
    loss, measures = mixture.finished(torch.zeros(()), components, match=True)
    loss.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([1.5 - 2.0, 2.0 + 1.5]))
    assert measures["gradient_norm_other"] == pytest.approx(10.0)
    assert math.isclose(measures["component_cosine"], 0.0, abs_tol=1e-9)


def test_a_mixture_survives_fewer_prompts_than_micro_batches():
    """An empty micro-batch of a step that several processes share adds nothing, and counts."""
    from offaxis.objectives.base import Component, Streams

    weight = torch.nn.Parameter(torch.zeros(2))
    mixture = Mixture([weight], 2)
    components = {"one": Component(1.0, Streams())}
    mixture.add("one", (weight * torch.tensor([3.0, 4.0])).sum())
    mixture.finished(torch.zeros(()), components, match=True)[0].backward()
    assert weight.grad is None
    loss, measures = mixture.finished(0.0 * weight.sum(), components, match=True)
    loss.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([3.0, 4.0]))
    assert measures["gradient_norm_one"] == pytest.approx(5.0)
