"""The landing picture: a real result as inline SVG. It needs neither plotly nor torch, and follows light and dark."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtz_core.figures.palette import Mode, palette
from mtz_core.figures.text import count_text, percent_text
from mtz_core.system.paths import ASSETS

EXAMPLE = ASSETS / "example" / "landing.json"
SHAPES = ("circle", "square", "diamond", "triangle")


def example(path: Path = EXAMPLE) -> dict[str, Any] | None:
    """Return the stored result that the landing page draws, or `None` if there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def pictures(result: Mapping[str, Any], mode: Mode) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return two SVG drawings, each with its description: sizes and layers, and error against size."""
    return _layers(result, mode), _plane(result, mode)


def _layers(result: Mapping[str, Any], mode: Mode) -> tuple[str, str]:
    """Bars in proportion to stored numbers: the parents' layers above, the zipped network's below."""
    counts = result["counts"]
    tasks, everything = result["tasks"], sum(counts["parents"])
    width, x0 = 440, 10
    scale = (width - 2 * x0) / everything
    parts = [_text(x0, 22, f"{len(tasks)} networks: {count_text(everything)} parameters", "title")]
    x = float(x0)
    for t, size in enumerate(counts["parents"]):
        parts.append(_bar(x, 36, size * scale, 40, f"t{t}", html.escape(str(tasks[t]))))
        x += size * scale
    total = counts["shared"] + sum(counts["private"])
    parts.append(
        _text(x0, 112, f"One zipped network: {count_text(total)}, {percent_text(total / everything)}", "title")
    )
    x = float(x0)
    parts.append(_bar(x, 126, counts["shared"] * scale, 40, "shared", "shared"))
    x += counts["shared"] * scale
    for t, size in enumerate(counts["private"]):
        parts.append(_bar(x, 126, size * scale, 40, f"t{t}", ""))
        x += size * scale
    parts.append(_text(x0, 204, "Neurons shared in each layer", "title"))
    layers: Sequence[Mapping[str, Any]] = result["layers"][:6]
    step = min(34, 104 / max(1, len(layers)))
    for k, layer in enumerate(layers):
        y = 216 + k * step
        full = width - 2 * x0 - 190
        parts.append(_text(x0, y + step / 2 + 1, html.escape(str(layer["name"])), "small"))
        parts.append(f"<rect x='90' y='{y:.1f}' width='{full}' height='{step - 8:.1f}' rx='3' class='empty'/>")
        part = full * layer["shared"] / max(1, layer["width"])
        parts.append(f"<rect x='90' y='{y:.1f}' width='{part:.1f}' height='{step - 8:.1f}' rx='3' class='shared'/>")
        parts.append(_text(90 + full + 10, y + step / 2 + 1, f"{layer['shared']} of {layer['width']}", "small"))
    said = (
        f"{len(tasks)} networks with {count_text(everything)} parameters become one with {count_text(total)}. "
        + "; ".join(f"{x['name']}: {x['shared']} of {x['width']} neurons shared" for x in layers)
    )
    return _svg(parts, 440, 320, mode), said


def _plane(result: Mapping[str, Any], mode: Mode) -> tuple[str, str]:
    """Error against size: parents at the right, one point per task and run."""
    runs, parents = result["runs"], result["parent_errors"]
    tasks = [html.escape(str(task)) for task in result["tasks"]]
    errors = [e for run in runs for e in run["errors"]] + list(parents)
    top = _round_up(max(errors) * 1.08)
    left, right, up, down = 46, 412, 40, 262

    def px(size: float) -> float:
        return left + (right - left) * size

    def py(error: float) -> float:
        return down - (down - up) * error / top

    parts = [_text(10, 22, "Test error against size", "title")]
    for k in range(5):
        value = top * k / 4
        parts.append(f"<line x1='{left}' x2='{right}' y1='{py(value):.1f}' y2='{py(value):.1f}' class='grid'/>")
        parts.append(_text(left - 7, py(value) + 4, f"{value:g}", "small", "end"))
    for size in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(px(size), down + 20, percent_text(size), "small", "middle"))
    parts.append(_text((left + right) / 2, down + 42, "size, % of all networks together", "small", "middle"))
    for t in range(len(tasks)):
        y = py(parents[t])
        parts.append(f"<line x1='{left}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}' class='l{t} dash'/>")
        points = [*sorted((run["versus_all"], run["errors"][t]) for run in runs), (1.0, parents[t])]
        path = " ".join(f"{px(s):.1f},{py(e):.1f}" for s, e in points)
        parts.append(f"<polyline points='{path}' class='l{t}'/>")
        parts += [_mark(t, px(s), py(e), 5.5) for s, e in points]
        parts.append(_text(px(points[0][0]) - 10, py(points[0][1]) + 5, tasks[t], "small", "end"))
    said = "Test error against size. " + "; ".join(
        f"{task}: {runs[0]['errors'][t]:.2f} % at {percent_text(runs[0]['versus_all'])}, alone {parents[t]:.2f} %"
        for t, task in enumerate(tasks)
    )
    return _svg(parts, 440, 320, mode), said


def _svg(parts: Sequence[str], width: int, height: int, mode: Mode) -> str:
    colours = palette(mode)
    rules = f"""text {{ font-family: 'Source Sans', 'Source Sans Pro', system-ui, sans-serif; fill: {colours.text}; }}
.title {{ font-size: 16px; font-weight: 600; }} .small {{ font-size: 14px; fill: {colours.muted}; }}
.inside {{ font-size: 14px; font-weight: 600; fill: {colours.paper}; }}
.grid {{ stroke: {colours.grid}; }} .empty {{ fill: {colours.grid}; }} .shared {{ fill: {colours.shared}; }}
polyline {{ fill: none; stroke-width: 2.5; }} .dash {{ stroke-dasharray: 6 5; stroke-width: 1.3; }}"""
    for t, colour in enumerate(colours.tasks):
        rules += f"\n.t{t} {{ fill: {colour}; }} .l{t} {{ stroke: {colour}; }}"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'>"
        f"<style>{rules}</style>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' class='{kind}' text-anchor='{anchor}'>{text}</text>"


def _bar(x: float, y: float, width: float, height: float, kind: str, label: str) -> str:
    gap = 1.5
    rect = f"<rect x='{x:.1f}' y='{y}' width='{max(0.5, width - gap):.1f}' height='{height}' rx='4' class='{kind}'/>"
    if label and width > 8.5 * len(label):
        rect += _text(x + width / 2, y + height / 2 + 5, label, "inside", "middle")
    return rect


def _mark(t: int, x: float, y: float, r: float) -> str:
    match SHAPES[t % len(SHAPES)]:
        case "square":
            return f"<rect x='{x - r:.1f}' y='{y - r:.1f}' width='{2 * r}' height='{2 * r}' class='t{t}'/>"
        case "diamond":
            q = 1.3 * r
            return f"<path d='M{x:.1f} {y - q:.1f}l{q} {q}l{-q} {q}l{-q} {-q}z' class='t{t}'/>"
        case "triangle":
            return f"<path d='M{x:.1f} {y - r:.1f}l{r} {2 * r}h{-2 * r}z' class='t{t}'/>"
        case _:
            return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{r}' class='t{t}'/>"


def _round_up(value: float) -> float:
    """Return a round number above `value` that four grid lines divide well."""
    size = 10 ** math.floor(math.log10(max(value, 1e-6)))
    return next(m * size for m in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if m * size >= value)


def inline(drawing: str, said: str) -> str:
    """Return an SVG as an image inside the page: one request and several imports fewer than `st.image` needs."""
    data = base64.b64encode(drawing.encode()).decode()
    return f'<img class="picture" alt="{html.escape(said)}" src="data:image/svg+xml;base64,{data}" style="width:100%">'
