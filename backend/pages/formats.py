"""How numbers, shares, times and durations are written on the pages."""

from datetime import UTC, datetime

from markupsafe import Markup, escape

from lorabel.database.tables import now
from lorabel.evaluation.group_records import shown_group

NOTHING = "–"
UNITS = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("h", 3600), ("min", 60))


def integer(value: int | None) -> str:
    """`12345` -> `12,345`."""
    return NOTHING if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 0) -> str:
    """`0.934` -> `93 %`, with a space that is not broken."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}\u00a0%"


def score(value: float | None) -> str:
    """A metric in [0, 1], or a loss, with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """`4.2` -> `4.2 s`, `75` -> `1 min 15 s`, `7300` -> `2 h 2 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60}\u00a0min"


def latency(seconds: float | None) -> str:
    """`0.0473` -> `47 ms`, `1.32` -> `1.3 s`."""
    if seconds is None or seconds >= 1:
        return duration(seconds)
    return f"{1000 * seconds:.0f}\u00a0ms"


def ago(time: datetime | None, since: datetime | None = None) -> str:
    """How long ago a time was, in its largest unit.

    Args:
        since: the present; default: now.
    """
    if time is None:
        return NOTHING
    seconds = ((since or now()) - time).total_seconds()
    if seconds < 0:
        return "soon" if seconds < -5 else "just now"
    for unit, length in UNITS:
        count = int(seconds // length)
        if count:
            plural = "s" if count > 1 and unit not in ("h", "min") else ""
            return f"{count}\u00a0{unit}{plural} ago"
    return f"{int(seconds)}\u00a0s ago" if seconds >= 5 else "just now"


def moment(time: datetime | None) -> Markup:
    """A `<time>` element: how long ago, with the time itself in UTC as its title."""
    if time is None:
        return Markup('<span class="muted">{}</span>').format(NOTHING)
    utc = time.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M:%S} UTC", escape(ago(time))
    )


def codes(text: str) -> Markup:
    """What stands between backticks as `<code>`, as the doctor writes commands."""
    parts = (
        f"<code>{escape(part)}</code>" if place % 2 else escape(part) for place, part in enumerate(text.split("`"))
    )
    return Markup("").join(Markup(part) for part in parts)


FILTERS = {
    "integer": integer,
    "shown_group": shown_group,
    "percent": percent,
    "score": score,
    "duration": duration,
    "latency": latency,
    "moment": moment,
    "codes": codes,
}
