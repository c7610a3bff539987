"""The tables of data and rewards: what a step reads, and what a completion earns."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt

from offaxis.data.columns import LAYOUTS
from offaxis.data.columns import Columns as Chosen
from offaxis.recipe.table import Table

# One column or several.
Paths = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class Columns(Table):
    """Where the user's rows hold what, as dotted paths; `offaxis.data.columns` says what is what.

    A key that is left out is the layout's, where there is one.
    """

    prompt: Paths = Field(default_factory=list)
    completion: str = ""
    messages: str = ""
    answer: Paths = Field(default_factory=list)


class Data(Table):
    """What a step reads: a task of ours, the user's files, or a generator of reasoning-gym.

    Attributes:
        task: A task of `offaxis.tasks`.
        files: JSON Lines, Parquet or folders saved by `datasets`; relative to the recipe.
        gym: A generator of reasoning-gym.
        mixture: Documents of each kind in every step, for objectives on given tokens; the kind of
            files is `demonstrations`, that of a generator `answers`.
        prompts: Problems in every step, for objectives on rollouts.
        layout: The public set that the files are of; it names their columns.
        columns: Their columns, where there is no layout or others are meant.
        evaluation_files: The held-out rows of files.
        held_out: Else this fraction of prompts (of files or a generator) is held out, by text.
        template: Whether the tokenizer's chat template makes the texts, or prompts stand as they
            are.
        template_settings: What the chat template is told, such as `enable_thinking`.
        max_tokens: Longer documents are left out, counted and replaced by others.
        gym_settings: The generator's own settings.
        gym_threshold: The score from which a completion counts as right.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "task",
            "files",
            "gym",
            "layout",
            "columns",
            "evaluation_files",
            "held_out",
            "template",
            "template_settings",
            "max_tokens",
            "gym_settings",
            "gym_threshold",
        }
    )

    task: str = ""
    files: tuple[str, ...] = ()
    gym: str = ""
    mixture: dict[str, PositiveInt] = Field(default_factory=dict)
    prompts: NonNegativeInt = 0
    layout: str = ""
    columns: Columns = Columns()
    evaluation_files: tuple[str, ...] = ()
    held_out: float = Field(default=0.1, gt=0, lt=1)
    template: Literal["chat", "plain"] = "chat"
    template_settings: dict[str, Any] = Field(default={})
    max_tokens: PositiveInt = 4096
    gym_settings: dict[str, Any] = Field(default={})
    gym_threshold: float = Field(default=1.0, gt=0, le=1)

    @property
    def chosen_columns(self) -> Chosen:
        """The columns of the layout, the recipe's own in their place."""
        given = self.columns
        chosen = LAYOUTS.get(self.layout, Chosen())
        if given.prompt or given.completion:
            chosen = chosen._replace(messages="")
        if given.messages:
            chosen = Chosen(messages=given.messages, answer=chosen.answer)
        return chosen._replace(
            prompt=tuple(given.prompt) or chosen.prompt,
            completion=given.completion or chosen.completion,
            answer=tuple(given.answer) or chosen.answer,
        )


class Rewards(Table):
    """What a rollout earns; settings of the rule are further keys of the same table.

    Attributes:
        kind: `verifier` (the task's own rule) or a reward of `offaxis.rewards`.
        judge: The rule that models are judged by where `kind` is none, such as `random`; data with
            a verifier of their own need none.
        max_unscorable: A step with a larger share of rollouts that cannot be judged ends the run.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    later: ClassVar[frozenset[str]] = frozenset({"judge", "max_unscorable"})

    kind: str = "verifier"
    judge: str = ""
    max_unscorable: float = Field(default=0.5, ge=0, le=1)

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's own settings, those left out at their defaults."""
        return dict(self.model_extra or {})
