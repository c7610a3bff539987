"""Teachers: which are the student's match, and what one behind a server is worth."""

import copy
import sys
from dataclasses import replace

import httpx
import pytest
import torch
from tests.training.server import serving
from tokenizers import AddedToken

from offaxis.errors import RecipeError, ServerError, UsageError
from offaxis.recipe import Precision, TeacherSource, recipe_from
from offaxis.runs import RunFolder
from offaxis.tasks.chain import chain13
from offaxis.training import train
from offaxis.training.engines import client
from offaxis.training.heads import head_of
from offaxis.training.models import new_model, save_model, task_tokenizer
from offaxis.training.rollouts import complete
from offaxis.training.teachers import HttpTeacher, shared_tokens

PRECISION = Precision(autocast="none")
ENGINES = ("vllm", "sglang")


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(chain13)


@pytest.fixture(scope="module")
def config(base):
    return base().start.config.model_copy(update={"init_std": 0.3})


@pytest.fixture
def student(config, tokenizer):
    return new_model(config, tokenizer, PRECISION).eval()


@pytest.fixture
def teacher(config, tokenizer):
    return new_model(config.model_copy(update={"init_seed": 7}), tokenizer, PRECISION).eval()


def source(url, engine, **changes):
    return TeacherSource(**{"url": url, "engine": engine, "model": "tiny"} | changes)


@pytest.fixture
def rows(student, tokenizer):
    prompts = ["Q0+0;=", "Qc+0;+5;-a;-9;-5;=", "Q7-9;+b;-5;+1;="]
    keys = [("teachers", index) for index in range(len(prompts))]
    how = {"max_tokens": 9, "temperature": 1.0, "per_prompt": 2, "keys": keys}
    return complete(student, tokenizer, prompts, **how).rows


def in_process(teacher, rows):
    with torch.no_grad():
        log_p = head_of(teacher, rows).logits().log_softmax(-1)
    return log_p.gather(-1, rows.batch.tokens_BT[..., None])[..., 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_served_teacher_tells_what_the_same_one_here_does(engine, teacher, tokenizer, rows):
    with serving(teacher, tokenizer) as (url, _):
        scored = HttpTeacher(source(url, engine)).score(rows).batch
    mask = rows.batch.mask_BT
    expected = in_process(teacher, rows)
    torch.testing.assert_close(
        scored.teacher_logprobs_BT[mask], expected[mask], rtol=1e-5, atol=1e-5
    )
    assert (scored.teacher_logprobs_BT[~mask] == 0).all()
    assert expected[mask].std() > 0.5


@pytest.mark.parametrize("engine", ENGINES)
def test_many_rows_are_asked_about_in_several_requests(
    engine, teacher, tokenizer, rows, monkeypatch
):
    monkeypatch.setattr(client, "_AT_ONCE", 2)
    with serving(teacher, tokenizer) as (url, served):
        scored = HttpTeacher(source(url + "/v1/", engine)).score(rows).batch
        assert len(served.requests) == 3
    mask = rows.batch.mask_BT
    torch.testing.assert_close(
        scored.teacher_logprobs_BT[mask], in_process(teacher, rows)[mask], rtol=1e-5, atol=1e-5
    )


def test_a_server_that_is_busy_is_asked_again(teacher, tokenizer, rows, monkeypatch):
    monkeypatch.setattr(client, "_FIRST_WAIT_SECONDS", 0.01)
    with serving(teacher, tokenizer) as (url, served):
        served.change = lambda n, _, answer: (503, {}) if n < 3 else (200, answer)
        scored = HttpTeacher(source(url, "vllm")).score(rows).batch
        assert len(served.requests) == 3
    mask = rows.batch.mask_BT
    torch.testing.assert_close(
        scored.teacher_logprobs_BT[mask], in_process(teacher, rows)[mask], rtol=1e-5, atol=1e-5
    )


def spoiled(change):
    def spoil(_, path, answer):
        content = copy.deepcopy(answer)
        change(content["choices"] if isinstance(content, dict) else content)
        return 200, content

    return spoil


WRONG = {
    "vllm": {
        "a token too few": lambda choices: choices[0]["prompt_logprobs"].pop(),
        "another token": lambda choices: choices[0]["prompt_logprobs"].__setitem__(2, {"99": {}}),
        "no number": lambda choices: choices[0]["prompt_logprobs"].__setitem__(2, None),
        "a choice too few": lambda choices: choices.pop(),
        "not finite": lambda choices: [
            entry.update(logprob=float("nan"))
            for entry in choices[0]["prompt_logprobs"][2].values()
        ],
        "minus infinity": lambda choices: [
            entry.update(logprob=-9999.0) for entry in choices[0]["prompt_logprobs"][2].values()
        ],
    },
    "sglang": {
        "a token too few": lambda rows: rows[0]["meta_info"]["input_token_logprobs"].pop(),
        "another token": lambda rows: rows[0]["meta_info"]["input_token_logprobs"].__setitem__(
            2, [-1.0, 99, None]
        ),
        "no number": lambda rows: rows[0]["meta_info"]["input_token_logprobs"][2].__setitem__(
            0, None
        ),
        "an answer too few": lambda rows: rows.pop(),
    },
}


@pytest.mark.parametrize(
    ("engine", "how"), [(engine, how) for engine, ways in WRONG.items() for how in ways]
)
def test_an_answer_that_is_not_the_documented_one_is_never_used(
    engine, how, teacher, tokenizer, rows
):
    with serving(teacher, tokenizer) as (url, served):
        served.change = spoiled(WRONG[engine][how])
        with pytest.raises(ServerError, match="documented answer") as caught:
            HttpTeacher(source(url, engine)).score(rows)
    assert caught.value.exit_code == 5
    assert url in str(caught.value)


def test_a_refusal_is_told_at_once_and_silence_after_the_deadline(teacher, tokenizer, rows):
    with serving(teacher, tokenizer) as (url, served):
        served.change = lambda *_: (400, {"error": "unknown model"})
        with pytest.raises(ServerError, match="unknown model"):
            HttpTeacher(source(url, "vllm")).score(rows)
        assert len(served.requests) == 1
        served.change = lambda *_: (503, {})
        with pytest.raises(ServerError, match=r"within 0\.5 s"):
            HttpTeacher(source(url, "vllm", deadline_seconds=0.5)).score(rows)
    with pytest.raises(ServerError, match=r"within 0\.5 s"):  # nothing listens there any more
        HttpTeacher(source(url, "sglang", deadline_seconds=0.5)).score(rows)


def test_without_httpx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match=r"offaxis\[http\]"):
        HttpTeacher(source("http://127.0.0.1:1", "vllm"))
    monkeypatch.undo()
    assert httpx.__version__


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_that_splits_texts_otherwise_is_refused(engine, teacher, tokenizer):
    problem = chain13.problem(seed=0, index=0)
    text = problem.prompt + problem.answer
    with serving(teacher, tokenizer) as (url, served):
        its = HttpTeacher(source(url, engine))
        its.check_tokens(tokenizer, [text])

        def shifted(_, path, answer):
            return 200, {**answer, "tokens": [*answer["tokens"][:3], 77, *answer["tokens"][4:]]}

        served.change = shifted
        with pytest.raises(RecipeError, match=r"token 3 of 'Q.* there") as caught:
            its.check_tokens(tokenizer, [text])
    assert "77" in caught.value.found


def padded(model, num_ids):
    """The model with a last layer of more rows than there are tokens, as Qwen's are."""
    wide = copy.deepcopy(model)
    wide.resize_token_embeddings(num_ids, mean_resizing=False)
    return wide


def test_equal_models_share_everything_and_nothing_is_said(student, teacher, tokenizer):
    assert shared_tokens(student, tokenizer, teacher, tokenizer, "run") == (None, [])


@pytest.mark.parametrize(("own", "its"), [(32, 40), (40, 32), (48, 40)])
def test_models_padded_differently_are_cut_to_the_tokens(student, teacher, tokenizer, own, its):
    student, teacher = padded(student, own), padded(teacher, its)
    shared = shared_tokens(student, tokenizer, teacher, tokenizer, "run")
    assert shared.num_ids == 32
    (line,) = shared.lines
    assert f"student {own} logits" in line
    assert f"teacher {its}" in line
    assert "\n" not in line


def test_tokens_at_the_end_that_one_lacks_are_cut_off(student, teacher, tokenizer):
    more = copy.deepcopy(tokenizer)
    more.add_tokens([AddedToken("<think>")])
    shared = shared_tokens(student, tokenizer, padded(teacher, 40), more, "run")
    assert shared.num_ids == 32
    assert "33" in shared.lines[0]


def test_a_real_mismatch_names_the_first_token_that_differs(student, teacher, tokenizer):
    alphabet = "0132" + chain13.alphabet[4:]
    other = task_tokenizer(replace(chain13, alphabet=alphabet))
    with pytest.raises(RecipeError, match="id 2: student '2', teacher '3'"):
        shared_tokens(student, tokenizer, teacher, other, "run")


def test_other_ends_and_other_templates_are_said_in_one_line_each(student, teacher, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}"
    teacher.generation_config.eos_token_id = [tokenizer.eos_token_id, 3]
    shared = shared_tokens(student, tokenizer, teacher, other, "run")
    assert shared.num_ids is None
    ends, templates = shared.lines
    assert "ends of text" in ends
    assert "'3'" in ends
    assert "chat templates" in templates


@pytest.fixture
def teacher_folder(teacher, tokenizer, tmp_path):
    """A teacher with eight padding rows more than the student."""
    save_model(padded(teacher, 40), tokenizer, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_run_with_a_padded_teacher_says_so_once_and_trains(arm, tmp_path, teacher_folder):
    recipe = arm("opd", rollouts={"source": "teacher"}).model_copy(
        update={"teacher": TeacherSource(path=str(teacher_folder))}
    )
    notes = []
    folder = train(recipe, tmp_path, observe=lambda p: p.note and notes.append(p.note))
    (note,) = [note for note in notes if "trainable numbers" not in note]
    assert "student 32 logits" in note
    assert all(line["mismatch_kl_nats"] >= 0 for line in folder.log()[1:])


def served_recipe(arm, url, kind="reverse_kl_by_k1", *, seconds=60.0, **changes):
    teacher = {"url": url, "model": "tiny", "engine": "vllm", "deadline_seconds": seconds}
    content = arm("grpo").resolved() | {"objective": {"kind": kind}, "teacher": teacher}
    content["rollouts"] |= changes.pop("rollouts", {})
    content["steps"] |= changes.pop("steps", {})
    return recipe_from(content | {"arm": "served", **changes}, "test")


def test_a_divergence_over_the_vocabulary_is_refused_with_the_recipe(arm):
    with pytest.raises(RecipeError, match="not of the whole vocabulary"):
        served_recipe(arm, "http://127.0.0.1:1", "opd")


@pytest.mark.parametrize("kind", ["reverse_kl_by_k1", "reverse_kl_by_k2", "forward_kl_by_k3"])
def test_a_run_learns_from_a_served_teacher_and_stops_when_it_stops(
    arm, teacher, tokenizer, tmp_path, kind
):
    with serving(teacher, tokenizer) as (url, served):
        recipe = served_recipe(arm, url, kind, name="whole")
        folder = train(recipe, tmp_path)
        manifest = folder.manifest()
        assert manifest["finished"] is True
        assert manifest["teacher"] == {"name": "tiny", "url": url, "engine": "vllm"}
        assert all(line["teacher_seconds"] > 0 for line in folder.log()[1:])
        served.requests.clear()
        # The text to compare and two steps are answered, then nothing is.
        served.change = lambda n, _, answer: (200, answer) if n < 4 else (503, {})
        recipe = served_recipe(arm, url, kind, seconds=2.0, name="broken", steps={"max": 6})
        with pytest.raises(ServerError, match="within"):
            train(recipe, tmp_path)
    broken = RunFolder(tmp_path / "runs" / "broken")
    assert broken.manifest()["finished"] is False
    assert 2 in broken.steps()


def test_a_served_teacher_can_sample_the_rollouts_too(arm, teacher, tokenizer, tmp_path):
    with serving(teacher, tokenizer) as (url, served):
        how = {"source": "teacher", "importance": "token"}
        folder = train(served_recipe(arm, url, rollouts=how), tmp_path)
        asked = [body for path, body in served.requests if body.get("return_token_ids")]
    assert len(asked) == 3 * 2  # three steps of two prompts
    assert {body["n"] for body in asked} == {2}
    assert len({body["seed"] for body in asked}) == len(asked)
    assert all(line["mismatch_kl_nats"] > 1e-2 for line in folder.log()[1:])
