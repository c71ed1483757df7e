"""What the pages share: how their templates are filled, and writing one whole."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from flantune.errors import StateError
from flantune.whole import write_whole


def page_template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flantune.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def page_styles(*names: str) -> Markup:
    """The style sheets' text, to stand in the page itself."""
    return Markup("\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names))


def write_page(page: str, out: Path) -> Path:
    """Whole or not at all. Raises StateError where `out` cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StateError(f"{out}: cannot be written: {e.strerror or e}.") from e
    write_whole(out, lambda file: file.write(page.encode()))
    return out
