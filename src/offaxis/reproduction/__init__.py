"""The paper, figure by figure: arms, draws, claims declared before the run, and their verdicts."""
