"""Wording as data: template sets in wording/*.yaml, and which of them a task is worded with."""

from flantune.templates.patterns import fill, fill_text, has_words, parse_pattern, slots, without_words
from flantune.templates.sets import (
    TemplateSet,
    check_templates,
    delimiter_rows,
    first_of_each_kind,
    labelled_templates,
    language_code,
    needed_slots,
    set_names,
    template_set,
    templates_for,
)

__all__ = [
    "TemplateSet",
    "check_templates",
    "delimiter_rows",
    "fill",
    "fill_text",
    "first_of_each_kind",
    "has_words",
    "labelled_templates",
    "language_code",
    "needed_slots",
    "parse_pattern",
    "set_names",
    "slots",
    "template_set",
    "templates_for",
    "without_words",
]
