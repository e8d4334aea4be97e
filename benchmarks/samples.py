"""Samples, and the figures made of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Samples:
    """What was measured on one side.

    Attributes:
        label: What was done.
        values: In the order in which they were taken.
    """

    label: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return every sample and what sums them up."""
        summary = {"min": min(self.values), "median": self.median, "max": max(self.values)}
        return {"label": self.label, **summary, "samples": list(self.values)}


@dataclass(frozen=True)
class Figure:
    """A ratio of medians, or without a reference the largest sample; both are better when smaller.

    Attributes:
        unit: Of the samples.
        goal: What the value should not pass.
        parts: Where the time of ``ours`` goes.
        notes: What a reader must know to repeat it.
    """

    name: str
    title: str
    unit: str
    ours: Samples
    goal: float
    reference: Samples | None = None
    parts: Sequence[Samples] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The ratio, or the largest sample."""
        if self.reference is None:
            return max(self.ours.values)
        return self.ours.median / self.reference.median

    @property
    def met(self) -> bool:
        """True when the value is within the goal."""
        return self.value <= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return the figure with every sample."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "kind": "ratio" if self.reference else "largest",
            "value": self.value,
            "goal": self.goal,
            "met": self.met,
            "ours": self.ours.to_json(),
            "reference": self.reference.to_json() if self.reference else None,
            "parts": [part.to_json() for part in self.parts],
            "notes": dict(self.notes),
        }


def in_turns(ours: Callable[[], A], reference: Callable[[], B], repeat: int) -> tuple[list[A], list[B]]:
    """Call both in turns, ``repeat`` times each, and return what each returned."""
    pairs = [(ours(), reference()) for _turn in range(repeat)]
    return [mine for mine, _other in pairs], [other for _mine, other in pairs]


def parts_of(rows: Sequence[Mapping[str, float]]) -> list[Samples]:
    """Return one series a key of rows that all have the same keys."""
    return [Samples(key, [row[key] for row in rows]) for key in rows[0]]
