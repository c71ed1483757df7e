"""Zero-shot and few-shot, with and without rationale, instruction and options, plain or chat: Example -> Prompt."""

from flantune.formats.chat import chat_prompt, to_messages
from flantune.formats.few_shot import draw_separator, kept_exemplars, same_template_positions
from flantune.formats.options import LIST_STYLE, OptionStyle, draw_style, in_language, print_options, worded_answer
from flantune.formats.preview import as_plain_text, as_rich_text, legend
from flantune.formats.render import demonstration_exemplars, layout_of, render
from flantune.formats.selection import applies, select_templates
from flantune.recipe import FORMATS, SETTINGS, VARIANTS, make_format

__all__ = [
    "FORMATS",
    "LIST_STYLE",
    "SETTINGS",
    "VARIANTS",
    "OptionStyle",
    "applies",
    "as_plain_text",
    "as_rich_text",
    "chat_prompt",
    "demonstration_exemplars",
    "draw_separator",
    "draw_style",
    "in_language",
    "kept_exemplars",
    "layout_of",
    "legend",
    "make_format",
    "print_options",
    "render",
    "same_template_positions",
    "select_templates",
    "to_messages",
    "worded_answer",
]
