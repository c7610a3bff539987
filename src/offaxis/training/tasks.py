"""The task of a recipe: one of ours as it is, the user's data through tokenizer and template."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from offaxis.catalog import find
from offaxis.console import messages
from offaxis.data.base import Record, Records
from offaxis.data.files import FileRecords
from offaxis.data.gym import GymRecords
from offaxis.errors import RecipeError
from offaxis.recipe import Recipe
from offaxis.recipe.data_fit import rule_of
from offaxis.rewards.base import Scorer
from offaxis.tasks.base import Document, GeneratedTask, Task
from offaxis.training.templates import ChatTemplate, Plain

# So many documents in a row that are all too long: there is none that is not.
_ATTEMPTS = 1000


def generated_task(recipe: Recipe) -> GeneratedTask | None:
    """The task of ours that a recipe names; None where its data come from elsewhere."""
    if not recipe.data.task:
        return None
    return find("offaxis.tasks", GeneratedTask, recipe.data.task)


def open_records(recipe: Recipe) -> Records | None:
    """The user's files or the generator that a recipe names; None where it names a task of ours.

    Raises:
        RecipeError: If a file or a generator is not what the recipe says.
        UsageError: If a package that reads it is not installed.
    """
    data = recipe.data
    if data.gym:
        return GymRecords(
            data.gym, data.gym_settings, threshold=data.gym_threshold, held_out=data.held_out
        )
    if data.files:
        return FileRecords(
            data.files,
            data.chosen_columns,
            evaluation_files=data.evaluation_files,
            held_out=data.held_out,
        )
    return None


def task_of(
    recipe: Recipe,
    records: Records | None,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
) -> Task:
    """The task that a recipe trains on.

    Args:
        recipe: The recipe.
        records: What `open_records` has opened.
        tokenizer: The student's.
        ends: The tokens that end a text for the student.

    Raises:
        RecipeError: If tokenizer and data do not fit.
    """
    task = generated_task(recipe)
    if task is not None:
        return task
    assert records is not None
    return TextTask(recipe, records, tokenizer, ends)


class TextTask:
    """Records as texts: prompts by the template, demonstrations with the model's end-of-text.

    What is longer than `data.max_tokens` (of demonstrations prompt and answer together, else the
    prompt) is left out; its place in the stream is taken by a draw from the same rows, and
    `too_long` counts it.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Records,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int],
    ) -> None:
        data = recipe.data
        self.name, self.problem_kind = records.name, "answers" if data.gym else "prompts"
        self.answer_length = recipe.rollouts.max_tokens
        self.too_long = 0
        self._records, self._tokenizer = records, tokenizer
        self._max_tokens = data.max_tokens
        self._template = (
            ChatTemplate(tokenizer, ends, data.template_settings)
            if data.template == "chat"
            else Plain(tokenizer, ends)
        )
        self._ends = [tokenizer.decode([end]) for end in ends]
        rule = rule_of(recipe)
        self._scorer: Scorer | None = None if rule is None else rule(**recipe.rewards.settings)

    @property
    def num_problems(self) -> int | None:
        """How many held-out problems there are."""
        return self._records.num_problems

    def document(self, kind: str, *, seed: int, index: int) -> Document:
        """A document of training; of the kind `prompts` it need not demonstrate anything."""
        return self._fitting(seed, index, is_learned=kind != "prompts", is_held_out=False)

    def problem(self, *, seed: int, index: int) -> Document:
        """A held-out problem."""
        return self._fitting(seed, index, is_learned=False, is_held_out=True)

    def score(self, document: Document, completion: str) -> float | None:
        """The recipe's rule on one completion, else the source's own verdict."""
        return self.scores([document], [completion])[0]

    def scores(
        self, documents: Sequence[Document], completions: Sequence[str]
    ) -> list[float | None]:
        """`score` of each pair, the end-of-text taken off."""
        texts = [self._without_end(completion) for completion in completions]
        if self._scorer is not None:
            return self._scorer(documents, texts, key=self.name)
        judge = self._records.judge
        return [judge(d.item, text) for d, text in zip(documents, texts, strict=True)]

    def _fitting(self, seed: int, index: int, *, is_learned: bool, is_held_out: bool) -> Document:
        """The record of a place, or the first other one for it that is short enough."""
        draw = self._records.held_out if is_held_out else self._records.training
        for attempt in range(_ATTEMPTS):
            record = draw(seed=seed, index=index, attempt=attempt)
            document = self._document(record)
            read = (document.prompt, document.answer if is_learned else "")
            length = sum(map(len, self._tokenizer(list(read), add_special_tokens=False).input_ids))
            if length <= self._max_tokens:
                return document
            if not self.too_long:
                messages().print(
                    f"{record.place}: {length} tokens, more than data.max_tokens = "
                    f"{self._max_tokens}; such documents are left out and counted"
                )
            self.too_long += 1
        raise RecipeError(
            "data.max_tokens",
            expected="documents that are not longer",
            found=f"{_ATTEMPTS} in a row that are",
            do="raise it",
        )

    def _document(self, record: Record) -> Document:
        prompt = self._template.prompt(record.prompt, record.place)
        answer = record.completion + self._template.end if record.completion else ""
        return Document(prompt, answer, record.reference, record.item)

    def _without_end(self, completion: str) -> str:
        ended = [end for end in self._ends if end and completion.endswith(end)]
        return completion.removesuffix(max(ended, key=len)) if ended else completion
