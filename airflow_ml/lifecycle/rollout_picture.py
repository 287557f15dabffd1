"""The states of a rollout as a picture, drawn from the table of moves: ``python -m … docs/rollout.svg``.

What the table does not say is not drawn: a state that is new there appears in the picture, and one that cannot be drawn
is an error. The same table gives the same bytes.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from airflow_ml.lifecycle.rollout import TRANSITIONS, Event, Rollout, State
from airflow_ml.spec.serving import Canary

Moves = Mapping[tuple[State, Event], State]

_BOX, _GAP, _HIGH, _LEFT = 84, 18, 38, 16
_TOP, _BELOW = 92, 212
_PLAIN, _JUDGED, _GOOD, _BAD = "#eef2f7", "#fff4d6", "#dff3e3", "#fbe3e1"
_LINE, _RED = "#4a5568", "#b4372c"
_STYLE = "text{font:12px system-ui,sans-serif;fill:#1a202c}.s{font-size:11px;fill:#4a5568}.r{fill:#b4372c}"


def svg(moves: Moves = TRANSITIONS, start: State = State.PUBLISH) -> str:
    """The picture.

    The way of a good release runs from left to right, the way back below it.

    Args:
        moves: The table.
        start: Where every rollout begins.

    Raises:
        ValueError: The table has a move that fits neither way.
    """
    way = _chain(moves, start)
    (back,) = {target for (_, event), target in moves.items() if event is Event.FAILED}
    way_back = _chain(moves, back)
    undrawn = [
        f"{state} on {event} to {target}"
        for (state, event), target in moves.items()
        if not {state, target} <= {*way, *way_back} or (event is Event.HELD and state is not target)
    ]
    if undrawn:
        raise ValueError(f"the picture has no place for {', '.join(undrawn)}")
    width = 2 * _LEFT + len(way) * _BOX + (len(way) - 1) * _GAP
    high = _BELOW + _HIGH + 56
    left = {state: _LEFT + place * (_BOX + _GAP) for place, state in enumerate(way)}
    failing = [state for state in way if moves.get((state, Event.FAILED)) is back]
    size = f'width="{width}" height="{high}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {high}" {size} role="img">',
        f"<title>The states of a rollout</title><style>{_STYLE}</style>",
        *(_marker(name, colour) for name, colour in (("a", _LINE), ("b", _RED))),
        f'<rect {size} fill="#ffffff"/>',
        _text(
            _LEFT, 24, "done, or judged well: to the right.  held: judged again.  failed, or judged badly: down.", "s"
        ),
        _text(_LEFT, _BELOW + _HIGH + 34, "Below a state: who answers while it lasts.", "s"),
    ]
    for state in way:
        held = (state, Event.HELD) in moves
        end = not any(key[0] is state for key in moves)
        body += _box(left[state], _TOP, _BOX, state, _JUDGED if held else _GOOD if end else _PLAIN, end)
        body.append(_text(left[state] + _BOX // 2, _TOP + _HIGH + 16, _answers(state), "s", middle=True))
        if held:
            x = left[state] + _BOX // 2
            body.append(_arrow(f"M{x + 16} {_TOP} C{x + 34} {_TOP - 36} {x - 34} {_TOP - 36} {x - 16} {_TOP}"))
            body.append(_text(x, _TOP - 32, "held", "s", middle=True))
        if not end:
            x = left[state] + _BOX
            body.append(_arrow(f"M{x} {_TOP + _HIGH // 2} H{x + _GAP}"))
    for state in failing:
        x = left[state] + _BOX // 2
        body.append(_arrow(f"M{x} {_TOP + _HIGH + 24} V{_BELOW}", failed=True))
    first, last = left[failing[0]], left[failing[-1]] + _BOX
    body += _box(first, _BELOW, last - first, way_back[0], _BAD, end=False)
    x = last
    for state in way_back[1:]:
        body.append(_arrow(f"M{x} {_BELOW + _HIGH // 2} H{x + _GAP}"))
        body += _box(x + _GAP, _BELOW, _BOX, state, _BAD, end=True)
        x += _GAP + _BOX
    return "\n".join([*body, "</svg>", ""])


def _chain(moves: Moves, start: State) -> list[State]:
    """From a state on, as long as all goes well."""
    found = [start]
    while (following := moves.get((found[-1], Event.DONE))) is not None:
        found.append(following)
    return found


def _answers(state: State) -> str:
    """Who answers, by the same properties that make the routing."""
    now = datetime(2013, 1, 1, tzinfo=UTC)
    plan = Canary()
    rollouts = [
        Rollout(model="m", version=2, release="r", stable=1, plan=plan, state=state, step=step, since=now, began=now)
        for step in range(len(plan.steps) if state is State.CANARY else 1)
    ]
    shares = [f"{100 * rollout.share:g}" for rollout in rollouts]
    if shares == ["0"]:
        return "old, copied" if state is State.SHADOW else "old"
    return "new" if shares == ["100"] else f"new {', '.join(shares)} %"


def _box(x: int, y: int, width: int, state: State, colour: str, end: bool) -> list[str]:
    stroke = f'fill="{colour}" stroke="{_LINE}" stroke-width="{2 if end else 1}"'
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{_HIGH}" rx="{19 if end else 6}" {stroke}/>',
        _text(x + width // 2, y + _HIGH // 2 + 4, state.replace("_", " "), middle=True),
    ]


def _arrow(path: str, failed: bool = False) -> str:
    colour, marker = (_RED, "b") if failed else (_LINE, "a")
    return f'<path d="{path}" fill="none" stroke="{colour}" marker-end="url(#{marker})"/>'


def _marker(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
    )


def _text(x: int, y: int, content: str, kind: str = "", middle: bool = False) -> str:
    attributes = (f' class="{kind}"' if kind else "") + (' text-anchor="middle"' if middle else "")
    return f'<text x="{x}" y="{y}"{attributes}>{escape(content)}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
