"""RUNBOOK.md, out of the annotations of the alerts."""

import re
from collections.abc import Iterator
from typing import Any

SEVERITIES = {
    "page": "Somebody gets up.",
    "ticket": "Somebody looks during the day.",
}

_HEAD = """\
# Runbook

What each alert means, where to look, and what to do. Made of `rules.yaml` by
`python -m k8s.monitoring.generator`; the alerts carry the same lines.

First of all open the dashboard *authz: sidecar*:

- **Checks** at nought: Envoy doesn't ask, or nothing runs.
- **Let through unasked** above nought: the store; go on to *authz: revocation and Redis*.
- **Denied** has jumped: the reason says whose fault it is.
- **p99** has jumped: CPU, the store, or the disk of the audit.
"""


def runbook(rules: dict[str, Any]) -> str:
    """Markdown, a heading for each alert, as the annotation `runbook` points to."""
    alerts = list(alerts_of(rules))
    parts = [_HEAD]
    for severity, meaning in SEVERITIES.items():
        of_it = [alert for alert in alerts if alert["labels"]["severity"] == severity]
        links = ", ".join(f"[{one['alert']}](#{one['alert'].lower()})" for one in of_it)
        parts.append(f"**{severity}** ({meaning.lower().removesuffix('.')}): {links}\n")
    parts += [_section(alert) for alert in alerts]
    return "\n".join(parts)


def alerts_of(rules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All alerts, in their order."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                yield rule


def _section(alert: dict[str, Any]) -> str:
    told = alert["annotations"]
    wait = f", for {alert['for']}" if "for" in alert else ""
    return (
        f"## {alert['alert']}\n\n"
        f"- **Means** ({alert['labels']['severity']}): {_plain(told['summary'])}\n"
        f"- **Look at**: {told['look_at']}\n"
        f"- **Do**: {told['to_do']}\n\n"
        f"```promql\n{alert['expr'].strip()}\n```\n\n"
        f"Fires as soon as it is so{wait}.\n"
    )


def _plain(template: str) -> str:
    """Without Prometheus' templates: `{{ $labels.job }}` becomes *job*, a value *so much*."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", template)
    return re.sub(r"\{\{ \$value[^}]*\}\}", "*so much*", text)
