"""Two sides brought together: by their names, and by what is known of how names change."""

from collections.abc import Iterator, Mapping, Sequence

from offaxis.checkpoints.coverage import Coverage, Match, named
from offaxis.checkpoints.names.experts import can_ask
from offaxis.checkpoints.names.prefixes import agreements
from offaxis.checkpoints.names.tied import EMBEDDINGS, HEADS
from offaxis.checkpoints.sides import FLOATS, Side
from offaxis.checkpoints.views import View
from offaxis.errors import CheckpointError

Names = Mapping[str, View]
Both = tuple[Names, Names]

_NO_LIBRARY = "pip install 'offaxis[train]', which pairs stacked experts with single ones"
_NO_NAMES = (
    "save experts alike on both sides: transformers does not tell how these stacks are split"
)
_NO_CONFIG = "put config.json beside the weights: it says how fused layers and stacks are laid out"


def join(old: Side, new: Side) -> Coverage:
    """Pair what two checkpoints hold, and list the rest.

    Raises:
        CheckpointError: If two ways of pairing are equally good, two tensors stand for one name, or
            a matrix of a pair has no plain floating-point dtype.
    """
    tied = _is_tied(old, new)
    mine, theirs = _named_alike(old, new, without_heads=tied)
    kinds: dict[str, list[Match]] = {"alike": [], "resized": [], "unlike": []}
    for name, view in mine.items():
        if name in theirs:
            match = _oriented(Match(view, theirs[name]))
            _require_floats(old, match.anchor)
            _require_floats(new, match.current)
            kinds[_likeness(match)].append(match)
    alone = [v for name, v in mine.items() if name not in theirs]
    others = [v for name, v in theirs.items() if name not in mine]
    return Coverage(
        alike=kinds["alike"],
        resized=kinds["resized"],
        unlike=kinds["unlike"],
        only_in_anchor=alone,
        only_in_checkpoint=others,
        without_weights=tuple(dict.fromkeys((*old.skipped, *new.skipped))),
        tied=_said_of_ends(old, new) if tied else None,
        notes=tuple(_notes(old, new)),
        way_out=_way_out(old, new, (alone, others)),
    )


def _named_alike(old: Side, new: Side, *, without_heads: bool) -> Both:
    """The views of both sides by shared names: as they are stored, where these agree."""
    heads = {old.ends.head, new.ends.head} if without_heads else set()

    def kept(names: Names) -> Names:
        return {name: view for name, view in names.items() if view.tensor not in heads}

    if kept(old.views).keys() == kept(new.views).keys():
        return kept(old.views), kept(new.views)
    mine, theirs = kept(old.names), kept(new.names)
    ways = agreements(mine, theirs)
    if len(ways) > 1:
        raise CheckpointError(
            f"the tensors of {new.path} and of {old.path}",
            expected="one way in which their names agree",
            found="two prefixes whose removal makes equally many agree, but brings other tensors "
            "together",
            do="save the checkpoint with the names of its anchor",
        )
    shared = [
        {way[name]: view for name, view in names.items()}
        for way, names in zip(ways[0], (mine, theirs), strict=True)
    ]
    return _experts_named_alike(old, new, (shared[0], shared[1]))


def _experts_named_alike(old: Side, new: Side, both: Both) -> Both:
    """Ask for the names of single experts, where stacks have no counterpart on the other side."""
    mine, theirs = both
    if not (_lone_stacks(mine, theirs) or _lone_stacks(theirs, mine)) or not can_ask():
        return both
    asked = (
        old.one_by_one(mine) if _lone_stacks(mine, theirs) else mine,
        new.one_by_one(theirs) if _lone_stacks(theirs, mine) else theirs,
    )
    before, after = (len(a.keys() & b.keys()) for a, b in (both, asked))
    return asked if after > before else both


def _lone_stacks(mine: Names, theirs: Names) -> bool:
    return any(v.piece.entry is not None for name, v in mine.items() if name not in theirs)


def _oriented(match: Match) -> Match:
    """The checkpoint's entry of a stack turned, where its axes are the anchor's the other way."""
    old, new = match
    if new.piece.entry is None or new.piece.rows or old.shape == new.shape:
        return match
    if old.shape != new.shape[::-1]:
        return match
    piece = new.piece._replace(transposed=not new.piece.transposed)
    return Match(old, new._replace(rows=new.cols, cols=new.rows, piece=piece))


def _likeness(match: Match) -> str:
    """Whether a pair has one shape, one but for the rows of tokens, or two."""
    old, new = match
    if old.kind == new.kind and old.shape == new.shape:
        return "alike"
    of_tokens = old.role == new.role and old.role in (*EMBEDDINGS, *HEADS)
    is_whole = old.piece.is_whole and new.piece.is_whole
    return "resized" if of_tokens and is_whole and old.cols == new.cols else "unlike"


def _require_floats(side: Side, view: View) -> None:
    if view.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor {view.tensor!r} in {side.path}",
            expected=f"a dtype out of {', '.join(FLOATS)}",
            found=view.dtype,
            do="give an unquantised checkpoint: the difference to a quantised one is its noise",
        )


def _is_tied(old: Side, new: Side) -> bool:
    """Whether neither side has a head of its own, and one stores its embedding twice or says so."""
    said = any(side.tied or (side.model is not None and side.model.tied) for side in (old, new))
    return said and old.own_head is None and new.own_head is None


def _said_of_ends(old: Side, new: Side) -> str:
    head = old.ends.head or new.ends.head
    embedding = old.ends.embedding or new.ends.embedding
    return f"{head or 'the head'} is {embedding or 'the embedding'}"


def _way_out(old: Side, new: Side, lists: Sequence[Sequence[View]]) -> str | None:
    """What would pair fused layers or stacks with what they hold, if each side has some alone."""
    stacked = any(view.piece.entry is not None for views in lists for view in views)
    if not all(lists) or not (stacked or old.unsplit or new.unsplit):
        return None
    if old.model is None and new.model is None:
        return _NO_CONFIG
    if not stacked:
        return None
    return _NO_NAMES if can_ask() else _NO_LIBRARY


def _notes(old: Side, new: Side) -> Iterator[str]:
    """Ties that one side has alone, and fused layers that are not split."""
    for side, other, name in ((old, new, "anchor"), (new, old, "checkpoint")):
        if side.ends.embedding and side.own_head is None and other.own_head is not None:
            yield f"the head is the embedding in the {name} alone"
    if old.unsplit:
        yield (
            "measured whole, as no config says which rows are which: "
            + named([old.views[label] for label in old.unsplit])
        )
