"""What was measured: the arms with their runs, their names and colours, and how to read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from offaxis.report.checked import manifest_of, table_of
from offaxis.report.frames import (
    Floats,
    Frame,
    Ints,
    Series,
    build_frame,
    file_formats,
    linear_only,
    training_curves,
)
from offaxis.report.quantities import QUANTITIES, Quantity
from offaxis.report.verdicts import Reading
from offaxis.table import ResultsFolder

NORM = QUANTITIES["norm"]

# Okabe and Ito's advice (blue, orange, green, vermilion, purple), toned to read on light and dark.
KNOWN_ARMS = {
    "sft-base": ("SFT from base", "#d98e04"),
    "sft": ("SFT", "#cf4a30"),
    "opd": ("OPD", "#2e7fd6"),
    "rlvr": ("RLVR", "#12997a"),
    "rlvr-long": ("RLVR, long", "#7c9a00"),
    "rlvr-random": ("RLVR, random reward", "#a566bd"),
}
LONE_RUN = "run:"
OTHER_COLOURS = ("#2e7fd6", "#d98e04", "#12997a", "#cf4a30", "#a566bd", "#7c9a00", "#5f6b7a")


@dataclass(frozen=True)
class Arm:
    """One way of training, with the runs that differ in their seed only."""

    key: str
    label: str
    colour: str
    runs: tuple[Mapping[str, Any], ...]

    @property
    def run_names(self) -> list[str]:
        """The runs by name, in the order of their seeds."""
        return [str(run["name"]) for run in self.runs]


@dataclass(frozen=True)
class Study:
    """The whole table, by arm."""

    manifest: Mapping[str, Any]
    arms: tuple[Arm, ...]
    controls: tuple[Arm, ...]  # arms under a changed condition: in tables of their own, not drawn
    frame: Frame
    training: Mapping[tuple[str, str], tuple[Ints, Floats]]
    readings: Any  # the Arrow table of the linear matrices, for maps of single ones
    bf16_runs: frozenset[str]  # those whose files hold bf16

    def arm(self, key: str) -> Arm | None:
        """Return an arm by its key, if it was trained."""
        return next((arm for arm in self.arms if arm.key == key), None)

    def control(self, key: str) -> Arm | None:
        """Return an arm of the controls by its key, if it was trained."""
        return next((arm for arm in self.controls if arm.key == key), None)

    def series(self, run: str, quantity: Quantity) -> Series | None:
        """Return one curve of one run."""
        return self.frame.series(run, quantity)

    def final(self, arm: Arm, quantity: Quantity) -> list[Reading]:
        """Return the last defined reading of every seed."""
        found = []
        for run in arm.run_names:
            series = self.series(run, quantity)
            if series is not None and len(series.defined().steps):
                _, value, null, sd = series.defined().parts()
                found.append(Reading(float(value[-1]), float(null[-1]), float(sd[-1])))
        return found

    def accuracy(self, run: str) -> tuple[Ints, Floats] | None:
        """Return steps and accuracies of a run, if its log has them."""
        return self.training.get((run, "accuracy"))

    def joint(self, run: str, x: str, quantity: Quantity) -> tuple[Floats, Series] | None:
        """Return a curve with its relative norm, its accuracy or its progress at the same steps."""
        series = self.series(run, quantity)
        if series is None:
            return None
        if x == "progress":
            return series.steps / max(int(series.steps.max()), 1), series
        if x == "accuracy":
            logged = self.accuracy(run)
        else:
            norm = self.series(run, NORM)
            logged = None if norm is None else (norm.steps, norm.value)
        if logged is None:
            return None
        at = dict(zip(logged[0].tolist(), logged[1].tolist(), strict=True))
        return np.array([at.get(step, np.nan) for step in series.steps.tolist()]), series


def load_study(folder: ResultsFolder) -> Study:
    """Read a results folder.

    Raises:
        ResultsError: If a file is missing, damaged, of another version or not as the page needs.
    """
    manifest = manifest_of(folder)
    about = manifest.get("study") or {}
    readings = table_of(folder, "readings")
    linear = linear_only(readings)
    arms = _arms(manifest["runs"], about.get("labels") or {})
    of_controls = {
        str(key) for group in about.get("controls") or [] for key in group.get("arms") or []
    }
    return Study(
        manifest,
        tuple(arm for arm in arms if arm.key not in of_controls),
        tuple(arm for arm in arms if arm.key in of_controls),
        build_frame(readings),
        training_curves(table_of(folder, "training")),
        linear,
        frozenset(run for run, formats in file_formats(linear).items() if "bfloat16" in formats),
    )


def _arms(runs: list[Mapping[str, Any]], labels: Mapping[str, str]) -> tuple[Arm, ...]:
    """Group runs by arm: the known arms first, in the order of the paper, then the others."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        # A run without an arm is an arm of its own, none of the paper's by accident of its name.
        grouped.setdefault(str(run.get("arm") or f"{LONE_RUN}{run['name']}"), []).append(run)
    known = [key for key in KNOWN_ARMS if key in grouped]
    others = [key for key in grouped if key not in KNOWN_ARMS]
    arms = []
    for index, key in enumerate([*known, *others]):
        other = (
            labels.get(key, key.removeprefix(LONE_RUN)),
            OTHER_COLOURS[index % len(OTHER_COLOURS)],
        )
        label, colour = KNOWN_ARMS.get(key, other)
        members = sorted(grouped[key], key=lambda run: (run.get("seed") or 0, str(run["name"])))
        arms.append(Arm(key, label, colour, tuple(members)))
    return tuple(arms)
