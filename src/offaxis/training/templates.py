"""Records become texts: by the tokenizer's chat template, or as they stand."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from offaxis.data.base import Chat
from offaxis.errors import RecipeError


class Plain:
    """Prompts as they stand; a chat of one turn is its content."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
        self.end = _first_end(tokenizer, ends)

    def prompt(self, prompt: str | Chat, place: str) -> str:
        """The text of a prompt.

        Raises:
            RecipeError: If it is a chat of several turns.
        """
        if isinstance(prompt, str):
            return prompt
        if len(prompt) > 1:
            raise RecipeError(
                place,
                expected="a text, or a chat of one turn, where data.template is plain",
                found=f"a chat of {len(prompt)} turns",
                do="set data.template to chat",
            )
        return str(prompt[0]["content"])


class ChatTemplate:
    """The tokenizer's own template, with what makes the model answer at the end of the prompt.

    Args:
        tokenizer: The model's.
        ends: The tokens that end a text for this model.
        settings: What the template is told beside the messages.

    Raises:
        RecipeError: If the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], settings: dict[str, Any]
    ) -> None:
        if not tokenizer.chat_template:
            raise RecipeError(
                "data.template",
                expected="a tokenizer with a chat template",
                found="none",
                do="set data.template to plain, or start from a folder whose tokenizer has one",
            )
        self._tokenizer, self._settings = tokenizer, settings
        self.end = self._end(ends)

    def prompt(self, prompt: str | Chat, place: str) -> str:
        """The text of a prompt, up to where the answer begins.

        Raises:
            RecipeError: If the template refuses the messages.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            return self._rendered(turns, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise RecipeError(
                place,
                expected="messages that the tokenizer's chat template takes",
                found=str(error),
                do="correct the messages or data.template_settings, or set data.template to plain",
            ) from error

    def _rendered(self, turns: Chat, *, add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **self._settings,
        )
        return text

    def _end(self, ends: Sequence[int]) -> str:
        """What ends a turn in the template, if the model ends texts by it, else its end-of-text.

        Chat models may know several ends, and only that of the template ends an answer; a base
        model with a template may not stop at the template's.
        """
        answer = "an answer"
        turns = [
            {"role": "user", "content": "a question"},
            {"role": "assistant", "content": answer},
        ]
        try:
            after = self._rendered(turns, add_generation_prompt=False).rpartition(answer)[2]
        except (TemplateError, TypeError, ValueError):
            after = ""
        known = [self._tokenizer.decode([end]) for end in ends]
        written = [end for end in known if after.lstrip().startswith(end)]
        return written[0] if written else _first_end(self._tokenizer, ends)


def _first_end(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> str:
    """The tokenizer's end-of-text, else one of the model's own."""
    if tokenizer.eos_token:
        return str(tokenizer.eos_token)
    if ends:
        return str(tokenizer.decode([ends[0]]))
    raise RecipeError(
        "start",
        expected="a model that knows an end-of-text",
        found="no eos_token, and none in its generation_config",
        do="give the tokenizer an eos_token: demonstrations end with it",
    )
