"""What a picture is made of: a few shapes in pixels, which the SVG and PNG writers paint alike."""

from __future__ import annotations

from dataclasses import dataclass

# Blue and vermillion of Okabe and Ito (2008), which the common kinds of colour blindness tell apart; the sign is also
# shown by the bar's direction. The keys are class names in SVG, so that a page can restyle them for a dark theme.
PALETTE = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#dde1e6",
    "absent": "#eceff2",
    "positive": "#0072b2",
    "neutral": "#7d8590",
    "negative": "#d55e00",
}


@dataclass(frozen=True)
class Rect:
    """A filled rectangle, or only its outline."""

    x: float
    y: float
    width: float
    height: float
    color: str  # a key of PALETTE
    opacity: float = 1.0
    outlined: bool = False


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str
    width: float = 1.0


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is its baseline, `anchor` is start, middle or end."""

    x: float
    y: float
    text: str
    size: float
    color: str = "ink"
    anchor: str = "start"
    bold: bool = False


Shape = Rect | Line | Text


@dataclass(frozen=True)
class Group:
    """The shapes of one utterance and what to say about it when it is pointed at."""

    title: str
    shapes: list[Shape]


@dataclass(frozen=True)
class Picture:
    """Painted in order: background, then the groups. The text of every shape is printable already."""

    width: int
    height: int
    title: str
    description: str
    background: list[Shape]
    groups: list[Group]
