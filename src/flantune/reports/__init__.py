"""A run's files as one self-contained HTML page. Reads files, computes no statistics, loads nothing from elsewhere."""

from flantune.reports.report import write_report

__all__ = ["write_report"]
