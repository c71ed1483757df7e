"""The page's pictures (Plotly), each as HTML that needs the page's one copy of plotly.js.

Series differ in marker, dash or hatching besides the colour, so that they are told apart in black and white.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from flantune.reports.run_files import Record, RunFiles
from flantune.reports.tables import COUNTED

BASE, TUNED = "#6b6b6b", "#0b5fa5"
_MOST_BARS = 40


def script() -> str:
    """plotly.js, to stand in the page once."""
    from plotly.offline import get_plotlyjs

    # Inside a script element only "</script" could end it early; the library has none, and must not begin to.
    source = str(get_plotlyjs())
    assert "</script" not in source.lower()
    return source


def shares(parts: Mapping[str, Record], name: str, counts: str = "draws") -> str:
    """Share asked against share got, the largest parts; of what the recipe's weights count."""
    largest = sorted(parts, key=lambda part: (-parts[part]["examples"], part))[:_MOST_BARS][::-1]
    figure = go.Figure()
    for series, key, hatch, colour in (("got", "got", "", TUNED), ("asked", "asked", "/", BASE)):
        values = [_scaled(parts[part].get(key)) for part in largest]
        figure.add_bar(
            y=_labels(largest),
            x=values,
            name=series,
            orientation="h",
            marker={"color": colour, "pattern": {"shape": hatch, "fgcolor": "white"}},
        )
    counted = f"share of the {COUNTED.get(counts, counts)}, %"
    figure.update_layout(barmode="group", xaxis_title=counted, height=120 + 34 * len(largest))
    return _html(figure, name)


def lengths(card: Record, name: str) -> str:
    """Examples by length, in bins that double."""
    figure = go.Figure()
    series = (("inputs", "input_lengths", "", TUNED), ("targets", "target_lengths", "\\", BASE))
    bins = sorted({int(b) for _, key, _, _ in series for b in card[key]})
    for side, key, hatch, colour in series:
        figure.add_bar(
            x=[_bin_name(b) for b in bins],
            y=[card[key].get(str(b)) for b in bins],
            name=side,
            marker={"color": colour, "pattern": {"shape": hatch, "fgcolor": "white"}},
        )
    figure.update_layout(barmode="group", xaxis_title="tokens", yaxis_title="examples", xaxis_type="category")
    return _html(figure, name)


def loss(metrics: Sequence[Record], name: str) -> str:
    """Loss by step: as logged, and smoothed over the last tenth or so of the lines (exponentially)."""
    steps = [m["step"] for m in metrics]
    raw = [m.get("loss") for m in metrics]
    span = max(2, len(raw) // 10)
    figure = go.Figure()
    figure.add_scatter(
        x=steps, y=raw, name="as logged", mode="lines+markers", line={"color": BASE, "width": 1, "dash": "dot"},
        marker={"size": 4, "symbol": "circle-open"},
    )  # fmt: skip
    figure.add_scatter(
        x=steps,
        y=smooth(raw, span),
        name=f"smoothed over {span} lines",
        mode="lines",
        line={"color": TUNED, "width": 3},
    )
    figure.update_layout(xaxis_title="optimizer step", yaxis_title="loss, nats per target token")
    return _html(figure, name)


def selection(told: Record, name: str) -> str:
    """What was measured at each step, and the step chosen by it."""
    points = told["evaluations"]
    chosen = [p for p in points if p["step"] == told["chosen"]]
    figure = go.Figure()
    figure.add_scatter(
        x=[p["step"] for p in points],
        y=[p["value"] for p in points],
        name="measured",
        mode="lines+markers",
        line={"color": BASE, "width": 2},
        marker={"size": 7, "symbol": "circle-open"},
    )
    figure.add_scatter(
        x=[p["step"] for p in chosen],
        y=[p["value"] for p in chosen],
        name="chosen",
        mode="markers",
        marker={"size": 13, "symbol": "diamond", "color": TUNED},
    )
    unit = "loss, nats per target token" if told["by"] == "loss" else "mean score"
    figure.update_layout(xaxis_title="optimizer step", yaxis_title=unit)
    return _html(figure, name)


def smooth(values: Sequence[float | None], span: int) -> list[float | None]:
    """Exponential moving average with weight 2 / (span + 1), its start not biased to 0; gaps stay gaps."""
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed: list[float | None] = []
    for value in values:
        if value is not None:
            total, weight = keep * total + value, keep * weight + 1
        smoothed.append(None if value is None else total / weight)
    return smoothed


def before_after(run: RunFiles, names: Sequence[str], entries: Mapping[str, Mapping[str, Record]], name: str) -> str:
    """Base and tuned score with their intervals, one line per name. `entries`: side -> name -> entry."""
    shown = list(names)[:_MOST_BARS][::-1]
    figure = go.Figure()
    for side, symbol, colour in (("base", "circle-open", BASE), ("tuned", "diamond", TUNED)):
        own = [entries.get(side, {}).get(n, {}) for n in shown]
        scores = [_scaled(e.get("score")) for e in own]
        if all(s is None for s in scores):
            continue
        figure.add_scatter(
            x=scores,
            y=_labels(shown),
            name=side,
            mode="markers",
            orientation="h",
            offsetgroup=side,
            cliponaxis=False,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            error_x=_errors(own, colour),
        )
    # Grouped: the two sides of a name stand one above the other, or equal scores would hide one.
    figure.update_layout(scattermode="group", scattergap=0.5, height=130 + 34 * len(shown))
    figure.update_layout(xaxis_title="score, %", xaxis_rangemode="tozero")
    return _html(figure, name)


def _errors(entries: Sequence[Record], colour: str) -> dict[str, Any]:
    above: list[float | None] = []
    below: list[float | None] = []
    for entry in entries:
        score, bounds = entry.get("score"), entry.get("interval")
        if score is None or bounds is None:
            above.append(None)
            below.append(None)
        else:
            above.append(100 * (bounds[1] - score))
            below.append(100 * (score - bounds[0]))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour, "thickness": 1.5}


def _scaled(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _bin_name(edge: int) -> str:
    return str(edge) if edge < 2 else f"{edge}–{2 * edge - 1}"


def _labels(names: Sequence[str]) -> list[str]:
    """Plotly reads labels as a small HTML of its own; these are plain text, and told apart when cut."""
    cut = [n if len(n) <= 44 else f"{n[:20]}…{n[-23:]}" for n in names]
    return [html.escape(c if cut.count(c) == 1 else n, quote=False) for c, n in zip(cut, names, strict=True)]


def _html(figure: go.Figure, name: str) -> str:
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"},
        margin={"l": 8, "r": 8, "t": 36, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        dragmode=False,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(pio.to_html(figure, config=config, include_plotlyjs=False, full_html=False, div_id=name))
