"""The picture of the rollout's states is the one that its table of moves gives."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from airflow_ml.lifecycle.rollout import TRANSITIONS, Event, State
from airflow_ml.lifecycle.rollout_picture import svg

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "rollout.svg"


def test_the_committed_picture_is_the_generated_one():
    remedy = "python -m airflow_ml.lifecycle.rollout_picture docs/rollout.svg"
    assert COMMITTED.read_text(encoding="utf-8") == svg(), f"the table of moves changed; run {remedy}"


def test_every_state_is_drawn_once_and_every_move_has_an_arrow():
    root = ElementTree.fromstring(svg())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(texts.count(state.replace("_", " ")) == 1 for state in State)
    arrows = [e for e in root.iter("{http://www.w3.org/2000/svg}path") if "marker-end" in e.attrib]
    assert len(arrows) == len(TRANSITIONS)


def test_who_answers_follows_from_the_share():
    texts = [element.text for element in ElementTree.fromstring(svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert "new 1, 10, 50 %" in texts
    assert "old, copied" in texts


def test_a_move_that_has_no_place_is_an_error():
    moves = {**TRANSITIONS, (State.WATCH, Event.HELD): State.CANARY}
    with pytest.raises(ValueError, match="no place for watch on held to canary"):
        svg(moves)
