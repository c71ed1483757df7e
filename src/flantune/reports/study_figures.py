"""A study's panels as SVG that stands alone: no style sheet, no script, told apart by mark and dash besides the shade.

A panel is what study.json says of it. Numbers along x are drawn upright; categories lie, names at the left.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Record = Mapping[str, Any]

WIDTH = 380
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
INK, SOFT, LINE = "#1a1a1a", "#5a5a5a", "#d4d4d4"
SHADES = ("#0b3d66", "#b04a00", "#3b7a3b", "#7a3b7a", "#444444", "#0b8a8a")
PALE = "#8a8a8a"  # of references
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
LEVEL_DASHES = ("3 3", "10 4", "1 4", "6 2 1 2")
REFERENCE_DASHES = ("1 3", "5 4", "9 3 1 3", "3 2")
MARKS = ("disc", "square", "diamond", "triangle", "ring", "cross")


@dataclass(frozen=True, slots=True)
class Style:
    shade: str
    dash: str
    mark: str
    width: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / ((high - low) or 1) * (self.stop - self.start)


def panel_svg(panel: Record, y_range: tuple[float, float] | None = None) -> str:
    """The panel; `y_range` is shared among the panels of a group."""
    return _categories(panel, y_range) if panel["x_scale"] == "category" else _numbers(panel, y_range)


def y_range_of(panels: Sequence[Record]) -> tuple[float, float] | None:
    """What holds every mark, interval and level of the panels, in shown units; None where there is none."""
    values: list[float] = []
    for panel in panels:
        factor = _factor(panel)
        for series in panel["series"]:
            for mark in series["marks"]:
                values += [factor * v for v in (mark["y"], mark["low"], mark["high"]) if v is not None]
        values += [factor * value for _, value in panel["levels"]]
    if not values:
        return None
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or max(1e-9, abs(high) * 0.05) or 1.0
    return (max(0.0, low - pad) if low >= 0 else low - pad), high + pad


def panel_csv(panel: Record) -> str:
    """One line per mark, in the units of study.json."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["panel", "series", "x", "y", "low", "high", "x_low", "x_high", "label", "source"])
    for series in panel["series"]:
        for m in series["marks"]:
            own = [m[name] for name in ("x", "y", "low", "high", "x_low", "x_high", "label")]
            writer.writerow([panel["title"], series["name"], *own, series["source"]])
    for name, value in panel["levels"]:
        writer.writerow([panel["title"], name, "", value, "", "", "", "", "level", ""])
    return out.getvalue()


def _factor(panel: Record) -> float:
    return 100.0 if panel["y_unit"] == "percent" else 1.0


def styles_of(series: Sequence[Record]) -> list[Style]:
    """References are pale and thin; the others differ in shade, dash and mark at once."""
    own = references = 0
    styles = []
    for one in series:
        if one["reference"]:
            dash, mark = REFERENCE_DASHES[references % len(REFERENCE_DASHES)], MARKS[::-1][references % len(MARKS)]
            styles.append(Style(PALE, dash, mark, 1.3))
            references += 1
        else:
            styles.append(Style(SHADES[own % len(SHADES)], DASHES[own % len(DASHES)], MARKS[own % len(MARKS)], 2.0))
            own += 1
    return styles


def _numbers(panel: Record, y_range: tuple[float, float] | None) -> str:
    series, factor = panel["series"], _factor(panel)
    styles, legend = styles_of(series), _legend(panel)
    left, right, top, foot = 46.0, WIDTH - 14.0, 44.0, 44.0
    height = top + 170 + foot + 17 * len(legend)
    bottom = top + 170
    low, high = y_range or y_range_of([panel]) or (0.0, 1.0)
    y = Scale(low, high, bottom, top)
    xs = sorted({float(m["x"]) for one in series for m in one["marks"]})
    x = _x_scale(xs, left + 12, right - 10, panel["x_scale"] == "log")
    parts = [_title(panel["title"]), *_y_axis(y, left, right, panel["y_title"], top)]
    parts += _x_axis(x, xs, bottom, panel)
    for (_, value), dash in zip(panel["levels"], LEVEL_DASHES * 9, strict=False):
        parts.append(_line(left, y(factor * value), right, y(factor * value), SOFT, 1.3, dash))
    spread = 5.0 if len([s for s in series if not s["reference"]]) > 1 else 0.0
    marks: list[tuple[float, float, str]] = []
    for place, (one, style) in enumerate(zip(series, styles, strict=True)):
        shift = 0.0 if one["reference"] else spread * (place % 3 - (1 if spread else 0))
        at = [(x(float(m["x"])) + shift, y(factor * m["y"]), m) for m in one["marks"]]
        if one["joined"] and len(at) > 1:
            path = " L".join(f"{a:.1f} {b:.1f}" for a, b, _ in sorted(at, key=lambda p: p[0]))
            dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
            parts.append(f'<path d="M{path}" fill="none" stroke="{style.shade}" stroke-width="{style.width}"{dash}/>')
        for a, b, m in at:
            parts += _interval_y(a, m, y, factor, style)
            if m["x_low"] is not None and m["x_high"] is not None:
                parts.append(_line(x(m["x_low"]), b, x(m["x_high"]), b, style.shade, 1.2))
            if not _is_line(one):
                parts.append(_mark(a, b, style, _said(one["name"], m, factor)))
            marks.append((a, b, m["label"]))
    parts += _names_of_marks(marks[::-1], left, WIDTH, top, bottom)
    parts += _legend_parts(legend, bottom + foot + 4)
    return _svg(height, panel["title"], parts)


def _names_of_marks(
    marks: Sequence[tuple[float, float, str]], left: float, right: float, top: float, bottom: float
) -> list[str]:
    """Each name at one corner of its mark, where it touches no mark and no name before it; where that is nowhere it is
    left out, and told by the mark itself to a pointer that rests on it."""
    taken = [(a - 5, b - 5, a + 5, b + 5) for a, b, _ in marks]
    parts = []
    for a, b, name in marks:
        width = 5.6 * len(name)
        for above, behind in ((True, True), (True, False), (False, True), (False, False)):
            x, y = (a + 7 if behind else a - 7 - width), (b - 6 if above else b + 13)
            box = (x, y - 9, x + width, y + 2)
            inside = left <= box[0] and box[2] <= right and top <= box[1] and box[3] <= bottom
            if name and inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                parts.append(_text(x, y, name, 10, "start", INK))
                break
    return parts


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _categories(panel: Record, y_range: tuple[float, float] | None) -> str:
    """Names down the left, values to the right."""
    series, factor = panel["series"], _factor(panel)
    styles, legend = styles_of(series), _legend(panel)
    names = list(dict.fromkeys(str(m["x"]) for one in series for m in one["marks"]))
    left = min(170.0, 16 + 6.1 * max((len(n) for n in names), default=4))
    right, top = WIDTH - 16.0, 34.0
    step = max(24.0, 12.0 * len(series) + 8)
    bottom = top + step * len(names)
    height = bottom + 40 + 17 * len(legend)
    low, high = y_range or y_range_of([panel]) or (0.0, 1.0)
    across = Scale(low, high, left, right)
    parts = [_title(panel["title"])]
    for tick in ticks(low, high, 5):
        parts.append(_line(across(tick), top, across(tick), bottom, LINE, 1))
        parts.append(_text(across(tick), bottom + 14, shown(tick), 11, "middle", INK))
    parts.append(_text((left + right) / 2, bottom + 30, panel["y_title"], 11, "middle", SOFT))
    for (_, value), dash in zip(panel["levels"], LEVEL_DASHES * 9, strict=False):
        parts.append(_line(across(factor * value), top, across(factor * value), bottom, SOFT, 1.3, dash))
    for row, name in enumerate(names):
        centre = top + step * (row + 0.5)
        parts.append(_text(left - 8, centre + 4, _cut(name, 26), 11, "end", INK))
        for place, (one, style) in enumerate(zip(series, styles, strict=True)):
            at = centre + 12 * (place - (len(series) - 1) / 2)
            for m in (m for m in one["marks"] if str(m["x"]) == name):
                if m["low"] is not None and m["high"] is not None:
                    a, b = across(factor * m["low"]), across(factor * m["high"])
                    parts += [_line(a, at, b, at, style.shade, 1.6)]
                    parts += [_line(end, at - 3.5, end, at + 3.5, style.shade, 1.6) for end in (a, b)]
                parts.append(_mark(across(factor * m["y"]), at, style, _said(one["name"], m, factor)))
    parts += _legend_parts(legend, bottom + 42)
    return _svg(height, panel["title"], parts)


def _x_scale(xs: Sequence[float], start: float, stop: float, log: bool) -> Scale:
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    return Scale(low, high, start, stop, log and low > 0)


def _x_axis(x: Scale, xs: Sequence[float], bottom: float, panel: Record) -> list[str]:
    parts = [_line(x.start - 12, bottom, x.stop + 10, bottom, INK, 1)]
    few = len(xs) <= 8 and all(len(shown(value)) <= 5 for value in xs)
    at = xs if few or x.log else ticks(x.low, x.high, 6)
    last = -1e9
    for value in at:
        place, label = x(value), shown(value)
        parts.append(_line(place, bottom, place, bottom + 4, INK, 1))
        if place - last > 7 * len(label) + 6:  # names that would touch are left out
            parts.append(_text(place, bottom + 16, label, 11, "middle", INK))
            last = place
    middle = (x.start + x.stop) / 2
    return [*parts, _text(middle, bottom + 32, panel["x_title"], 11, "middle", SOFT)]


def _y_axis(y: Scale, left: float, right: float, title: str, top: float) -> list[str]:
    parts = []
    for tick in ticks(y.low, y.high, 5):
        parts.append(_line(left, y(tick), right, y(tick), LINE, 1))
        parts.append(_text(left - 6, y(tick) + 4, shown(tick), 11, "end", INK))
    return [*parts, _text(4, top - 12, title, 10.5, "start", SOFT)]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within the range: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def shown(value: float) -> str:
    """1836 -> 1,836; 0.25 -> 0.25; 3.0 -> 3"""
    if value == round(value):
        return f"{round(value):,}"
    return f"{value:.4g}"


def _is_line(series: Record) -> bool:
    """A reference through two places: a line without marks, as a fit."""
    return bool(series["reference"] and series["joined"] and len(series["marks"]) == 2)


def _legend(panel: Record) -> list[tuple[str, Style, bool]]:
    """Name, style and whether there is a mark: of the series, where there is more than one or the one is a reference,
    and of the levels."""
    series = panel["series"]
    entries: list[tuple[str, Style, bool]] = []
    if len(series) > 1 or any(one["reference"] for one in series):
        entries = [
            (one["name"], style, not _is_line(one)) for one, style in zip(series, styles_of(series), strict=True)
        ]
    levels = zip(panel["levels"], LEVEL_DASHES * 9, strict=False)
    return entries + [(name, Style(SOFT, dash, "", 1.3), False) for (name, _), dash in levels]


def _legend_parts(legend: Sequence[tuple[str, Style, bool]], top: float) -> list[str]:
    parts = []
    for row, (name, style, marked) in enumerate(legend):
        y = top + 17 * row
        parts.append(_line(14, y, 44, y, style.shade, style.width, style.dash))
        if marked:
            parts.append(_mark(29, y, style, name))
        parts.append(_text(52, y + 4, _cut(name, 52), 11, "start", INK))
    return parts


def _interval_y(x: float, mark: Record, y: Scale, factor: float, style: Style) -> list[str]:
    if mark["low"] is None or mark["high"] is None:
        return []
    low, high = y(factor * mark["low"]), y(factor * mark["high"])
    caps = [_line(x - 3.5, end, x + 3.5, end, style.shade, 1.4) for end in (low, high)]
    return [_line(x, low, x, high, style.shade, 1.4), *caps]


def _said(name: str, mark: Record, factor: float) -> str:
    """What a pointer that rests on a mark is told."""
    bounds = ""
    if mark["low"] is not None and mark["high"] is not None:
        bounds = f" [{factor * mark['low']:.1f}, {factor * mark['high']:.1f}]"
    x = mark["x"] if isinstance(mark["x"], str) else shown(float(mark["x"]))
    return f"{name}, {x}: {factor * mark['y']:.1f}{bounds} {mark['label']}".rstrip()


def _mark(x: float, y: float, style: Style, told: str) -> str:
    shapes: Mapping[str, Callable[[], str]] = {
        "disc": lambda: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="{style.shade}"',
        "ring": lambda: (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="#fff" stroke="{style.shade}" stroke-width="1.8"'
        ),
        "square": lambda: (
            f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="#fff" stroke="{style.shade}" '
            'stroke-width="1.8"'
        ),
        "diamond": lambda: _polygon([(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)], x, y, style.shade),
        "triangle": lambda: _polygon([(0, -5), (5, 4.2), (-5, 4.2)], x, y, style.shade),
        "cross": lambda: (
            f'<path d="M{x - 4:.1f} {y - 4:.1f} l8 8 m0 -8 l-8 8" fill="none" stroke="{style.shade}" stroke-width="1.8"'
        ),
    }
    tag = shapes[style.mark]()
    return f"{tag}><title>{escape(told)}</title></{tag[1:].split(' ')[0]}>"


def _polygon(corners: Sequence[tuple[float, float]], x: float, y: float, shade: str) -> str:
    at = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{at}" fill="{shade}"'


def _line(x1: float, y1: float, x2: float, y2: float, shade: str, width: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{shade}" stroke-width="{width}"{dashed}/>'


def _text(x: float, y: float, text: str, size: float, anchor: str, shade: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{shade}">{escape(text)}</text>'
    )


def _title(text: str) -> str:
    return f'<text x="4" y="14" font-size="13" font-weight="600" fill="{INK}">{escape(_cut(text, 54))}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="{FONT}">'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>{"".join(parts)}</svg>'
    )
