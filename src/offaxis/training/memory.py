"""What a run will hold in memory at most, told before its first step.

    weights + gradients + AdamW's two moments + the teacher + activations + the loss

The activations are those of a decoder of Qwen3's kind, counted tensor by tensor as torch keeps them
for the backward pass. An estimate: what the libraries themselves take (about 0.3 GB) and what the
allocator wastes come on top.
"""

from typing import NamedTuple

from offaxis.objectives.base import Objective
from offaxis.objectives.memory import predicted_peak_bytes
from offaxis.recipe import ModelConfig, Recipe

_FLOAT = 4


class Batch(NamedTuple):
    """What one forward pass reads.

    Attributes:
        rows: Sequences.
        width: Tokens of each.
    """

    rows: int
    width: int


def peak_bytes(
    recipe: Recipe,
    objective: Objective,
    batch: Batch,
    *,
    parameters: int,
    teacher_parameters: int,
    vocabulary: int,
    config: ModelConfig | None,
) -> int:
    """Predicted peak of a training step in bytes.

    Args:
        recipe: The run.
        objective: Its objective: whose logits are held a chunk at a time.
        batch: The rows of a whole step; micro-batches split them.
        parameters: The student's.
        teacher_parameters: The teacher's, 0 without one.
        vocabulary: Entries of a row of logits.
        config: The student's shape; None where it is not known, and activations are left out.
    """
    tokens = batch.rows * batch.width / recipe.optimizer.micro_batches
    states = 4 * _FLOAT * parameters + _FLOAT * teacher_parameters
    settings = recipe.objective.settings
    weighed = (objective.needs_vocabulary(settings), objective.reads_reference(settings))
    loss = predicted_peak_bytes(
        round(tokens),
        max(vocabulary, 1),
        config.hidden_size if config is not None else 0,
        num_heads=1 + sum(weighed),
        product_bytes=2 if recipe.precision.autocast == "bfloat16" else _FLOAT,
    )
    kept = 0.0
    if config is not None:
        layer = tokens * layer_bytes_per_token(config, batch.width)
        layers = config.num_hidden_layers
        residual = _FLOAT * tokens * config.hidden_size
        is_twice = recipe.precision.gradient_checkpointing
        kept = layer + layers * residual if is_twice else layers * layer
    return int(states + loss + kept)


def layer_bytes_per_token(config: ModelConfig, width: int) -> int:
    """What a layer keeps of a token for the backward pass, in float32 with eager attention.

    Of the hidden size: two norms of input, scale and output each, and two sums. Of queries and
    keys: projection, norm and rotation; of values the projection. Scores before and after softmax.
    Of the inner size: gate, its activation, up, and their product.
    """
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    hidden = 8 * config.hidden_size
    attention = 4 * queries + 6 * keys + 2 * config.num_attention_heads * width
    return _FLOAT * (hidden + attention + 4 * config.intermediate_size)
