"""The paper, entry by entry: arms x complete re-draws -> one study table -> verdicts."""
