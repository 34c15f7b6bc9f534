"""Reports from the files of a run or a study. Reads no model and needs no torch."""

from sfumato.report.html import write_report

__all__ = ["write_report"]
