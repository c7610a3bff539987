"""Where in weight space a run may move: one form of a subspace, or one constraint, a file."""
