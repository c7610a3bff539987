"""Tests about update masks: against chance, as published, and against the rounding gate."""

from dataclasses import dataclass

import numpy as np

from offaxis.report import verdicts
from offaxis.report.evidence import Evidence, said, summary
from offaxis.report.quantities import QUANTITIES
from offaxis.report.samples import CannotTell, label, sample
from offaxis.report.study import Study
from offaxis.report.verdicts import Verdict


@dataclass(frozen=True)
class AgainstNull:
    """Readings of each arm lie above (+1) or below (-1) their null at the end of training."""

    title: str
    quantity: str
    arms: tuple[str, ...]
    sign: int
    margin: float  # in display units

    def run(self, study: Study) -> Evidence:
        """Compare every seed with its own null."""
        quantity = QUANTITIES[self.quantity]
        try:
            samples = sample(study, self.arms, quantity, "end")
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        answers, parts = [], []
        for key, readings in samples.arms.items():
            # A null in closed form has no spread; one without a mean cannot be compared with.
            usable = [
                r._replace(null_sd=np.nan_to_num(r.null_sd))
                for r in readings
                if np.isfinite(r.null_mean)
            ]
            answers.append(verdicts.beyond_null(usable, self.sign, self.margin))
            null = verdicts.mean([r.null_mean for r in usable]) if usable else None
            numbers = summary([r.value for r in readings], quantity)
            parts.append(f"{label(key)} {numbers} against {quantity.text(null)} under its null")
        sign = "above" if self.sign > 0 else "below"
        text = (
            f"{quantity.label}: {'; '.join(parts)}. Asked: {sign} the null by more than "
            f"{quantity.text(self.margin)}: {said(*answers)}."
        )
        return Evidence(self.title, verdicts.all_of(answers), text)


@dataclass(frozen=True)
class AgainstChance:
    """Overlaps of each arm lie above (+1) or below (-1) the density of the mask."""

    title: str
    quantity: str
    arms: tuple[str, ...]
    sign: int

    def run(self, study: Study) -> Evidence:
        """Compare every seed with alpha, the share of weights that the mask holds."""
        quantity = QUANTITIES[self.quantity]
        measured = study.frame.settings("masks", "alpha")
        try:
            if len(measured) != 1:
                raise CannotTell("needs one alpha of the masks in the table")
            samples = sample(study, self.arms, quantity, "end")
        except CannotTell as reason:
            return Evidence(self.title, Verdict.UNKNOWN, reason.sentence)
        chance = quantity.factor * float(measured[0])
        answers, parts = [], []
        for key, readings in samples.arms.items():
            values = [reading.value for reading in readings]
            answers.append(verdicts.beyond_threshold(values, self.sign, chance))
            parts.append(f"{label(key)} {summary(values, quantity)}")
        sign = "above" if self.sign > 0 else "below"
        text = (
            f"{quantity.label}: {', '.join(parts)}. Asked: {sign} {quantity.text(chance)}, the "
            f"share of weights in the mask: {said(*answers)}."
        )
        return Evidence(self.title, verdicts.all_of(answers), text)
