"""The demo's snapshots, as SVG: a small web page that grows with each step. Pure.

Invariant: all text goes through `escape`; numbers need not, because none comes from outside.
"""

from __future__ import annotations

from html import escape

WIDTH, HEIGHT = 640, 400
STEPS = 5


def snapshot(title: str, step: int, hue: int) -> str:
    """Returns the SVG text of the page after `step` of `STEPS` steps, in the colour `hue` (degrees)."""
    parts = [_chrome(title, hue), _hero(hue), _cards(hue), _chart(hue), _footer(hue)][
        : max(1, min(step, STEPS))
    ]
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui,sans-serif">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="hsl({hue} 30% 97%)"/>'
        f"{body}</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, radius: float = 6) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}"/>'


def _chrome(title: str, hue: int) -> str:
    dots = "".join(f'<circle cx="{20 + 16 * i}" cy="20" r="5" fill="hsl({hue} 20% 75%)"/>' for i in range(3))
    bar = _rect(0, 0, WIDTH, 40, f"hsl({hue} 25% 90%)", 0)
    name = f'<text x="84" y="25" font-size="14" fill="hsl({hue} 30% 25%)">{escape(title)}</text>'
    return bar + dots + name


def _hero(hue: int) -> str:
    lines = "".join(
        _rect(36, 76 + 26 * i, 250 - 60 * i, 14, f"hsl({hue} 35% {45 + 15 * i}%)") for i in range(3)
    )
    button = _rect(36, 166, 110, 30, f"hsl({hue} 70% 50%)", 15)
    return lines + button + _rect(350, 66, 254, 140, f"hsl({hue} 65% 80%)", 12)


def _cards(hue: int) -> str:
    return "".join(
        _rect(36 + 194 * i, 228, 180, 66, "#fff", 10)
        + _rect(50 + 194 * i, 242, 38, 38, f"hsl({(hue + 40 * i) % 360} 70% 62%)", 19)
        + _rect(102 + 194 * i, 246, 96, 10, f"hsl({hue} 25% 60%)", 5)
        + _rect(102 + 194 * i, 264, 64, 8, f"hsl({hue} 20% 80%)", 4)
        for i in range(3)
    )


def _chart(hue: int) -> str:
    heights = [18, 30, 24, 44, 36, 52, 40, 58, 48, 62, 54, 66]
    return "".join(
        _rect(44 + 47 * i, 378 - height, 28, height, f"hsl({hue} 60% {72 - height / 4}%)", 4)
        for i, height in enumerate(heights)
    )


def _footer(hue: int) -> str:
    return _rect(0, 386, WIDTH, 14, f"hsl({hue} 30% 25%)", 0) + _rect(
        500, 52, 104, 22, f"hsl({hue} 80% 40%)", 11
    )
