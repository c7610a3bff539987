"""The page: one self-contained HTML file made from the table alone, without torch."""

from offaxis.report.page import write_report

__all__ = ["write_report"]
