"""One chart as one pure function: measurements and thresholds → SVG. No script, printable, readable by a screen reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

SPAN = timedelta(days=30)
MARGIN = timedelta(minutes=5)
WIDTH, HEIGHT = 860, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 96, 20, 44
_STYLES = {"systolic": ("#b3261e", "收缩压"), "diastolic": ("#1f5fa8", "舒张压")}


def blood_pressure(rows: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float], zone: str) -> str:
    """rows: measurements with `measured_at` and `values` (mm[Hg]), oldest first. thresholds: metric → mm[Hg]."""
    points = [row for row in rows if any(name in row["values"] for name in _STYLES)]
    values = [float(row["values"][name]) for row in points for name in _STYLES if name in row["values"]]
    low, high = _bounds([*values, *thresholds.values()])
    moments = [row["measured_at"] for row in points]
    first, last = _period(moments)

    def x(at: datetime) -> float:
        return LEFT + (at - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    local = ZoneInfo(zone)
    title = f"血压 {len(points)} 次测量 · {len(points)} blood pressure measurements"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        *_grid(low, high, y),
        *_times(first, last, x, local),
        *(_threshold(name, value, y(value)) for name, value in sorted(thresholds.items())),
    ]
    for name, (colour, label) in _STYLES.items():
        mine = [(row, x(row["measured_at"]), y(float(row["values"][name]))) for row in points if name in row["values"]]
        if len(mine) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for _, px, py in mine)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.5"/>')
        parts += [_point(row, name, label, colour, px, py, local) for row, px, py in mine]
    if not points:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle" fill="#555">暂无读数 · no readings</text>')
    parts.append("</svg>")
    return "".join(parts)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 40.0, 200.0
    return min(40.0, (min(values) // 20) * 20), max(200.0, (max(values) // 20 + 1) * 20)


def _period(moments: Sequence[datetime]) -> tuple[datetime, datetime]:
    """The time axis: the readings and some air around them, at least ten minutes."""
    if not moments:
        end = datetime.fromisoformat("2000-01-02T00:00:00+00:00")
        return end - timedelta(days=1), end
    first, last = min(moments), max(moments)
    air = max((last - first) * 0.05, timedelta(minutes=5))
    return first - air, last + air


def _grid(low: float, high: float, y: Any) -> list[str]:
    lines = []
    for value in range(int(low), int(high) + 1, 20):
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e3e3e3"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value}</text>')
    return lines


def _times(first: datetime, last: datetime, x: Any, zone: ZoneInfo) -> list[str]:
    form = "%m-%d %H:%M" if last - first < timedelta(days=10) else "%m-%d"
    return [
        f'<text x="{x(first + (last - first) * part / 4):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle" fill="#555">'
        f"{(first + (last - first) * part / 4).astimezone(zone).strftime(form)}</text>"
        for part in range(5)
    ]


def _threshold(name: str, value: float, at: float) -> str:
    colour, label = _STYLES.get(name, ("#555", name))
    return (
        f'<g class="threshold" data-metric="{escape(name)}"><line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
        f' stroke="{colour}" stroke-dasharray="6 4"/>'
        f'<text x="{WIDTH - RIGHT + 6}" y="{at + 4:.1f}" fill="{colour}">{label}≥{value:g}</text></g>'
    )


def _point(row: Mapping[str, Any], name: str, label: str, colour: str, px: float, py: float, zone: ZoneInfo) -> str:
    when = row["measured_at"].astimezone(zone).strftime("%Y-%m-%d %H:%M")
    unsure = "(时间不确定)" if row.get("time_quality") == "untrusted" else ""
    words = f"{label} {row['values'][name]:.0f} mmHg · {when}{unsure} · {row.get('setting', '')}"
    fill = "#fff" if row.get("weak") else colour
    return (
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="2" tabindex="0">'
        f"<title>{escape(words)}</title></circle>"
    )
