"""Finding: what a check says about a config or its data."""

from collections.abc import Mapping
from typing import NamedTuple

from ra_mm.errors import UserError


class Finding(NamedTuple):
    """One line of a report: an error if training would go wrong."""

    is_error: bool
    text: str
    cause: Exception | None = None


def error(text: str, cause: Exception | None = None) -> Finding:
    return Finding(True, text, cause)


def warning(text: str) -> Finding:
    return Finding(False, text)


class Findings(list[Finding]):
    """All findings of some checks."""

    @property
    def errors(self) -> list[str]:
        return list(dict.fromkeys(f.text for f in self if f.is_error))

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(f.text for f in self if not f.is_error))

    @property
    def cause(self) -> Exception | None:
        """The first exception that led to a finding."""
        return next((f.cause for f in self if f.cause is not None), None)

    def raise_errors(self) -> None:
        """Raise one :class:`.UserError` that lists all errors, if there are any."""
        lines = self.errors
        if len(lines) > 1:
            lines.insert(0, f'{len(lines)} things are missing or wrong:')
        if lines:
            raise UserError('\n- '.join(lines)) from self.cause


def remedy(options: Mapping[str, object]) -> str:
    """Format the options of a tool that would mend a config, ready to be pasted."""
    values = (f'{key}={value}'.replace(' ', '') for key, value in options.items())
    return f'pass --cfg-options {" ".join(values)}'
