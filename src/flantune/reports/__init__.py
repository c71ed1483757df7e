"""A run's or a study's files as one self-contained HTML page. Reads files, computes no statistics, loads nothing."""

from flantune.reports.report import write_report
from flantune.reports.study import is_begun, is_study, write_study_report

__all__ = ["is_begun", "is_study", "write_report", "write_study_report"]
