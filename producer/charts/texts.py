"""Write numbers for people: durations, sizes, counts and shares."""

from __future__ import annotations

_UNITS = ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (60.0, 1.0, "s"))


def format_seconds(seconds: float) -> str:
    """Return a duration with three digits, such as ``3.20 ms``, ``41.5 s`` or ``2 min 05 s``."""
    if seconds == 0:
        return "0 s"
    for end, unit, name in _UNITS:
        if seconds < end * 0.9995:
            return f"{_three_digits(seconds / unit)} {name}"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def format_tick(seconds: float) -> str:
    """Return a round duration in its shortest form, such as ``0``, ``200 ms``, ``5 s``, ``1 min 30 s`` or ``2 h``."""
    if seconds < 60:
        unit, name = next((unit, name) for end, unit, name in _UNITS if seconds < end * 0.9995)
        return f"{seconds / unit:.3g} {name}" if seconds else "0"
    parts = [(int(seconds // 3600), "h"), (int(seconds % 3600 // 60), "min"), (int(seconds % 60), "s")]
    return " ".join(f"{number:,} {name}" for number, name in parts if number)


def format_count(number: float) -> str:
    """Return a number in a short form, such as ``0.5``, ``950``, ``12k`` or ``1.5M``."""
    # With three digits, numbers from 999,500 on are 1M.
    for least, unit, suffix in ((0.9995e9, 1e9, "G"), (0.9995e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / unit:.3g}{suffix}"
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def format_share(part: float, whole: float) -> str:
    """Return a share as a percentage. A share that is not 0 or 1 is never shown as 0 % or 100 %."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.0f} %" if share == round(share) else f"{share:.1f} %"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
