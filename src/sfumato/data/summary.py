"""What was odd about the images of a set, and what was done about it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5
DROPPED = {
    "unreadable": "left out: could not be decoded",
    "bomb": "left out: too many pixels",
    "tiny": "left out: a side below a quarter of the resolution",
    "crashed": "left out: decoding ended the process",
}
HANDLED = {
    "enlarged": "smaller than the resolution: enlarged",
    "grey": "grey among coloured ones: converted",
    "cmyk": "CMYK: converted to RGB",
    "16-bit": "16 bits a channel: scaled to 8",
    "palette": "with a palette: converted to RGB",
    "transparent": "with transparency: laid on white unless channels is 4",
    "rotated": "turned upright as their EXIF says",
    "animated": "of several frames: the first was taken",
    "duplicate": "equal to an earlier image of the set",
}


@dataclass
class Finding:
    """How often something was found, and the first few names."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(name)


@dataclass
class Summary:
    """Findings by kind: a key of DROPPED or HANDLED."""

    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, names: Iterable[str]) -> None:
        """Count images of a kind."""
        for name in names:
            self.findings.setdefault(kind, Finding()).add(name)

    @property
    def num_dropped(self) -> int:
        """Images that are not in the set."""
        return sum(f.count for kind, f in self.findings.items() if kind in DROPPED)

    def lines(self) -> list[str]:
        """One line for each kind, the left-out ones first."""
        return [
            f"{finding.count} {text} ({', '.join(finding.examples)}"
            f"{', ...' if finding.count > len(finding.examples) else ''})"
            for kind, text in (DROPPED | HANDLED).items()
            if (finding := self.findings.get(kind))
        ]

    def to_json(self) -> dict[str, Any]:
        """A plain mapping."""
        return {k: {"count": f.count, "examples": f.examples} for k, f in self.findings.items()}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> "Summary":
        """The inverse of `to_json`."""
        return cls({k: Finding(int(f["count"]), list(f["examples"])) for k, f in mapping.items()})
