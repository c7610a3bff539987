"""A teacher in this process: which tokens it shares with the student, and what else differs."""

from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offaxis.errors import RecipeError
from offaxis.training.rollouts import ends_of

# What both templates are rendered with, to see whether they ask in the same words.
_MESSAGES = [{"role": "user", "content": "1 + 1 = ?"}]


class Shared(NamedTuple):
    """What student and teacher have in common.

    Attributes:
        num_ids: The logits of both are those of the first `num_ids` ids, or None where neither has
            any others, and nothing is cut off.
        lines: What a person should know before the run, a sentence each.
    """

    num_ids: int | None
    lines: list[str]


def shared_tokens(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel,
    its_tokenizer: PreTrainedTokenizerBase,
    where: str,
) -> Shared:
    """Compare two models token by token.

    Models of one family often differ in the size of their last layer alone, which is padded beyond
    the tokenizer (Qwen: 151,936 or 152,064 for 151,669 tokens), or in tokens added at the end. Both
    are then read on the ids they share, and their probabilities are those given these ids.

    Raises:
        RecipeError: If an id that both have is another token in each.
    """
    own, its = (_by_id(t) for t in (tokenizer, its_tokenizer))
    num_ids = min(max(own), max(its)) + 1
    for i in range(num_ids):
        if own.get(i) != its.get(i):
            raise RecipeError(
                f"{where}, teacher",
                expected="a teacher with the student's vocabulary, token by token",
                found=f"id {i}: student {own.get(i)!r}, teacher {its.get(i)!r}",
                do="choose a teacher that shares the student's tokenizer",
            )
    sizes = (student.config.vocab_size, teacher.config.vocab_size)
    lines = _differences(student, tokenizer, teacher, its_tokenizer)
    if sizes[0] == sizes[1] and own.keys() == its.keys():
        return Shared(None, lines)
    cut = (
        f"vocabularies: student {sizes[0]} logits for {len(own)} tokens, teacher {sizes[1]} for "
        f"{len(its)}; both are cut to the {num_ids} ids they share"
    )
    return Shared(num_ids, [cut, *lines])


def _by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def _differences(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel,
    its_tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """Where the two end their texts or ask their questions differently: no error, but often one.

    A teacher that never ends where the student does teaches it not to end.
    """
    lines = []
    own, its = ends_of(student, tokenizer), ends_of(teacher, its_tokenizer)
    if own != its:
        ends = " and ".join(str(tokenizer.convert_ids_to_tokens(e)) for e in (own, its))
        lines.append(f"ends of text: student and teacher differ: {ends}")
    if _asked(tokenizer) != _asked(its_tokenizer):
        lines.append("chat templates: student and teacher render the same message differently")
    return lines


def _asked(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A message as the template renders it, None without one."""
    if not tokenizer.chat_template:
        return None
    text: str = tokenizer.apply_chat_template(_MESSAGES, tokenize=False, add_generation_prompt=True)
    return text
