"""Queries that several panels are made of. `OF` and `[W]` are those of `board`."""


def quantiles(histogram: str, by: str = "", scale: float = 1) -> dict[str, str]:
    """Median, one in a hundred and one in a thousand, by their legends. `scale`: of its unit in a
    second.
    """
    divided = "" if scale == 1 else f" / {scale:g}"
    prefix = f"{{{{{by}}}}} " if by else ""
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({histogram}[W]))"
    return {
        f"{prefix}{legend}": f"histogram_quantile({quantile}, {rate}){divided}"
        for legend, quantile in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }


def share(part: str, whole: str, window: str = "[W]") -> str:
    """How much of one counter another is. A part that was never counted is nought of it; of nothing
    at all there is no share.
    """
    everything = f"sum(rate({whole}{window}))"
    return f"(sum(rate({part}{window})) or 0 * {everything}) / {everything}"


def hits(cache: str) -> str:
    """Share of look-ups that found something, of the counters `…_hits_total`, `…_misses_total`."""
    found, missed = rate(f"{cache}_hits_total"), rate(f"{cache}_misses_total")
    return f"{found} / ({found} + {missed})"


def budget(bad: str, whole: str, allowed: float) -> str:
    """What is left, in the time shown, of the share `allowed` of events that may be bad. Both are
    sums by job, with `[RANGE]` for the window.
    """
    query = f"1 - (({bad}) / ({whole})) / {allowed:g}"
    return query.replace("[RANGE]", "[$__range]")


def rates(metric: str, *labels: str, more: str = "") -> dict[str, str]:
    """Events a second by these labels."""
    by = ", ".join(labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return {legend: f"sum by ({by}) (rate({metric}{{OF{more}}}[W]))"}


def rate(metric: str, more: str = "") -> str:
    """Events a second, of all together."""
    return f"sum(rate({metric}{{OF{more}}}[W]))"
