"""What figures, nulls, flags and diagnostics mean, in plain words."""

from collections.abc import Sequence

# The title of each figure over training, and what its caption says to look at.
FIGURE_WORDS = {
    "sparsity": (
        "Sparsity: weights that bf16 does not see move",
        "Share of weights whose bf16 value stayed the same. Look at the distance between line "
        "and dashed null: on the null, the size of the update alone explains the sparsity.",
    ),
    "rotation_mean": (
        "Rotation: mean principal angle",
        "How far the leading singular directions of each matrix turned (right: input side, left: "
        "output side). Above the null, the update turns them more than the same entries with "
        "random signs would.",
    ),
    "rotation_max": (
        "Rotation: largest principal angle",
        "The largest angle sits at the edge of the chosen subspace. Where the spectral norm of "
        "the delta exceeds the gap between the k-th and the next singular value, directions may "
        "simply have changed places",
    ),
    "shift": (
        "Spectral shift",
        "Relative change of the singular values. Small values with a small null beside them "
        "mean a small update, not a protected spectrum.",
    ),
    "principal": (
        "Changed weights among the principal ones",
        "Share of the changed weights that lie in the mask of principal weights. Below the "
        "null would be avoidance; on the null it is rounding, which hides moves of big weights.",
    ),
    "low": (
        "Changed weights among the small ones",
        "Share of the changed weights that are small. Rounding lets small weights change more "
        "easily; only a distance from the null is a preference of the training.",
    ),
    "stable_rank": (
        "Stable rank",
        "How many directions carry the update's energy. Far below the null: truly low rank.",
    ),
    "stable_rank_bf16": (
        "",
        "Lower row: the same checkpoints as bf16 files would show them; where updates are "
        "small, rounding noise makes them look higher-rank than they are.",
    ),
    "norm": (
        "Size of the update",
        "Norm of the delta relative to that of the anchor: how far each arm has travelled. "
        "Most orders in this chapter follow this one.",
    ),
    "hill": (
        "Tail of the update's spectrum (Hill exponent)",
        "Lower is heavier-tailed: a few directions dominate.",
    ),
    "right_to_final": (
        "Similarity to the final directions",
        "How much of the final leading directions is already there. It must end at 1 for any "
        "process; only the height above the random walk says that directions were fixed early.",
    ),
    "right_increment": (
        "Similarity of the update so far and its next increment",
        "The leading directions of the update so far, against those of the step that follows. "
        "The two share nothing by construction, unlike an update and its own end.",
    ),
}

NULL_WORDS = {
    "gate_half_ulp": "an unstructured update of the same norm, through bf16 rounding (half an ulp)",
    "gate_cell_average": "an unstructured update of the same norm, through bf16 rounding "
    "(averaged over the rounding cell, as the anchor is not on the bf16 grid)",
    "sign_flip": "the same delta with random signs",
    "permutation": "the same delta with its entries shuffled inside the matrix",
    "random_factors": "random factors of the same shapes, their product of the same norm",
    "storage_rounding": "the rounding noise that an update of this size carries in the file's "
    "format",
    "random_walk": "a random walk whose steps between checkpoints have the same sizes",
    "factor_walk": "a random walk of the adapter's factors, whose rows move as far between "
    "checkpoints",
    "chance": "a random subspace or mask of the same size",
    "stratified": "the same changes, placed at random inside each binade of the weights",
    "independence": "no relation between change and mask inside any binade",
    "open_gates": "the law of the update seen where every change is visible",
    "everything_visible": "a file that shows the whole update",
    "isotropic": "an update without preferred directions",
    "gaussian": "independent Gaussian entries of one size",
    "marchenko_pastur": "independent entries of one size",
}

# What stands in the null column where no null could be computed.
NO_NULL = "none"

FLAG_WORDS = {
    "all_above_edge": "every value looked at is above the noise edge: there may be more",
    "below_resolution": "the angle is smaller than what is resolved",
    "block_not_drawn": "the energy in blocks was taken up to a smaller k",
    "beyond_top": "more singular values than were computed",
    "boundary": "the largest angle may be a swap at the boundary of the subspace",
    "checkpoint_missing": "the checkpoint before is no longer there: the increment spans several",
    "final_checkpoint": "compared with itself",
    "first_checkpoint": "has no increment before it",
    "few_open_gates": "too few weights show every change to predict the others",
    "gate_per_step": "training rounded the weights at every step: the gate's nulls, made for one "
    "rounding, do not hold",
    "hidden_update": "bf16 shows less than half of the update, and not its shape",
    "k_outside_dimension": "k is not smaller than the matrix",
    "masters_unknown": "not known in which format training held the weights: the gate's nulls hold "
    "for float32 that began at the stored anchor",
    "mask_at_tie": "the rank of the principal mask cuts through equal singular values",
    "not_needed": "the exact tier does not need it",
    "mixed_precision": "anchor and checkpoint were stored in different formats",
    "no_binade_decides": "no binade holds weights inside and outside the mask, changed and not",
    "no_contrast": "a single line, or every entry changed",
    "no_visible_change": "no entry changed in bf16",
    "quantised": "anchor or checkpoint was stored in 8 bits, whose rounding alone is an update of "
    "2.6 % (e4m3) or 5.3 % (e5m2) of the norm of normally distributed weights",
    "rank_deficient": "the anchor has fewer than k directions",
    "off_grid": "the anchor is not made of bf16 values",
    "subspace_unresolved": "the last of the K directions is not told from the next",
    "tail_undefined": "fewer than two, equal or unresolved top singular values",
    "tied_gap": "the k-th and the next singular value are equal",
    "unmerged": "an adapter's update itself: no file holds its sum with the base",
    "vector": "no matrix, and no directions",
    "zero_anchor": "the anchor is zero",
    "zero_update": "nothing moved",
}

# What the format of the weights in training means for the nulls of the precision gate.
GATE_WORDS = {
    "float32": "holds: one rounding, of the file",
    "float64": "holds: one rounding, of the file",
    "unknown": "holds if training kept float32 weights and began at the stored anchor",
    "low": "does not hold: rounded at every step",
}

DEFINITION_WORDS = {
    "sparsity": "Share of entries whose bf16 values before and after (a, b) agree: "
    "|b - a| ≤ eta · max(|a|, |b|). For bf16 values this is equality.",
    "rotation": "Principal angles between the leading k singular subspaces of the anchor and of "
    "the checkpoint, on the output (left) and input (right) side; angles into a slightly larger "
    "subspace (contained) and the share of energy lost.",
    "spectral_shift": "Distance of the two lists of singular values over the length of the "
    "anchor's. Never above the relative norm.",
    "gate": "Whether weights whose changes show predict those of larger ones (consistency), and "
    "what share of the update's norm bf16 shows (visible fraction).",
    "principal_energy": "Share of the delta's energy between the anchor's leading k directions on "
    "both sides.",
    "masks": "Of the entries that changed in bf16, the share inside a mask: the alpha largest of "
    "the anchor's best approximation of the given rank (principal), or the alpha smallest of the "
    "anchor (low magnitude). Odds ratio: of change inside the principal mask against outside it, "
    "binade by binade.",
    "norm": "Frobenius norm of the delta, the same over the anchor's, and its largest singular "
    "value.",
    "rank": "Stable rank ‖dW‖²_F / ‖dW‖²₂; effective rank, the exponential of the entropy of the "
    "singular values; spikes above the noise edge, and their size freed of noise; share of energy "
    "in the first 16 directions.",
    "tail": "Hill exponent of the k largest singular values of the delta; smaller is heavier.",
    "similarity": "Share that the leading K directions of the update so far have in common with "
    "those at the end (to_final) or with those of the next increment (increment), in [0, 1].",
    "mask_algebra": "Of the entries that changed in bf16, the share in combinations of the two "
    "masks; coverage: of a mask, the share that changed.",
    "line_ratios": "Variance of the share of rows, or of columns, that changed over that of "
    "changes placed at random.",
    "tolerance": "Share of entries that moved by at most a fixed amount, in bf16 or as stored.",
    "concentration": "Share of the delta's energy in its largest 0.1, 1 and 5 % of entries.",
    "projection_energy": "Share of the delta's energy along the anchor's leading directions, on "
    "the output side (left), the input side (right) or both (joint).",
    "spectrum_shares": "Share of the delta's energy, or norm, in its leading singular values.",
    "spectral_residual": "Movement of all singular values over the delta's norm; kappa is its "
    "square times the larger dimension.",
}


def explained(words: dict[str, str], name: str) -> str:
    """Return a name with its explanation, or alone where there is none."""
    return f"{name} ({words[name]})" if name in words else name


def null_sentence(names: Sequence[str]) -> str:
    """Say in words what the nulls of a figure are, by their names in the table."""
    described = [NULL_WORDS.get(name, name) for name in names if name != NO_NULL]
    if not described:
        return "No null is available here." if names else ""
    some = " Some readings have none." if NO_NULL in names else ""
    return f"Null: {'; or '.join(described)}.{some}"
