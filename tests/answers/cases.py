"""All cases, in the groups of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.answers import bodies, connections, fields, images, urls
from tests.answers.case import Case

GROUPS: Mapping[str, Sequence[Case]] = {
    "Response fields and transfer codings": fields.CASES,
    "Answers that carry the image": bodies.CASES,
    "URLs": urls.CASES,
    "Connections": connections.CASES,
    "Images; only imagefleet decodes them": images.CASES,
}
CASES: tuple[Case, ...] = tuple(case for cases in GROUPS.values() for case in cases)
