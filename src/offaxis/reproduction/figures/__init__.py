"""The paper's figures and its first table, drawn from a study: one file each.

A figure is a function of `Evidence` to a chart in the paper's layout and the same numbers as
tables. Lines are means over draws, bands their 95 % intervals, dashes nulls, diamonds what was
published.
"""

from collections.abc import Callable, Mapping

from offaxis.reproduction.figures import fig1, fig2, fig3, fig4, fig5, fig6, fig7, fig8, fig9, tab1
from offaxis.reproduction.figures.averages import Averages
from offaxis.reproduction.figures.figure import Evidence, Figure

DRAWN: Mapping[str, Callable[[Evidence], Figure]] = {
    "fig1": fig1.figure,
    "tab1": tab1.figure,
    "fig2": fig2.figure,
    "fig3": fig3.figure,
    "fig4": fig4.figure,
    "fig5": fig5.figure,
    "fig6": fig6.figure,
    "fig7": fig7.figure,
    "fig8": fig8.figure,
    "fig9": fig9.figure,
}
"""By the entries' names, in their order."""

__all__ = ["DRAWN", "Averages", "Evidence", "Figure"]
