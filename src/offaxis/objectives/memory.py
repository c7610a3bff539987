"""What the loss will hold, before it holds it."""

from offaxis.objectives.chunks import tokens_of_chunk, tokens_of_piece

# Tensors of a piece's size that are alive at once while a divergence is differentiated.
_ALIVE = 8
# What a CPU's allocator and its products keep beside.
_KEPT_BYTES = 2**26


def predicted_peak_bytes(
    num_tokens: int,
    vocabulary: int,
    hidden: int,
    *,
    num_heads: int = 2,
    product_bytes: int = 4,
    on_cpu: bool = True,
    is_trained: bool = True,
) -> int:
    """What the loss holds at its peak beside models and hidden states, gradients included.

    Args:
        num_tokens: Tokens of a micro-batch that carry a loss.
        vocabulary: Entries of the vocabulary.
        hidden: Width of the student's hidden state.
        num_heads: Models whose logits are read: the student, a teacher, a reference.
        product_bytes: Bytes of a number under autocast, else of one of the weights.
        on_cpu: Whether it runs on a CPU, where a chunk is worked on in pieces.
        is_trained: Whether the output matrix gets a gradient.

    Returns:
        Bytes; chunked logits, the working set of a piece, the gradients, and lowered copies of the
        output matrices. Measured peaks are within a fifth (a test compares).
    """
    chunk = min(num_tokens, tokens_of_chunk(vocabulary))
    piece = tokens_of_piece(chunk, vocabulary, on_cpu=on_cpu)
    logits = num_heads * chunk * vocabulary * product_bytes
    working = _ALIVE * piece * vocabulary * 4
    states = (num_heads * product_bytes + 4) * num_tokens * hidden
    matrix = vocabulary * hidden * (4 * is_trained)
    lowered = num_heads * vocabulary * hidden * product_bytes if product_bytes < 4 else 0
    kept = _KEPT_BYTES if on_cpu else 0
    return logits + working + states + matrix + lowered + kept
