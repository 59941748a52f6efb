"""What a finding is: a sentence computed from the records, with its verdict and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One sentence or two, the verdict in a word, and what this one alone rests on."""

    text: str
    verdict: str  # a word, as page.css has a colour for each; "" where there is nothing to decide
    basis: str = ""


@dataclass(frozen=True)
class Group:
    """Findings on one question, and what all of them rest on."""

    title: str
    basis: str
    findings: list[Finding]
