"""Panels that every process of authz has."""

from k8s.monitoring.generator.board import Panel
from k8s.monitoring.generator.kinds import Kind


def process_panels(having: str) -> tuple[Panel, ...]:
    """Of the processes that export `having`, since other programs count the same things."""
    of = f"and on (instance, job) {having}"
    return (
        Panel(
            "CPU",
            "Cores in use by each process. Without several workers one is the most it can use.",
            Kind.COUNT,
            {
                "{{instance}}": "sum by (instance, job) "
                f"(rate(process_cpu_seconds_total{{OF}}[W])) {of}"
            },
        ),
        Panel(
            "Memory",
            "Resident. It grows with what is remembered, to the limits of `cache`.",
            Kind.BYTES,
            {"{{instance}}": f"sum by (instance, job) (process_resident_memory_bytes{{OF}}) {of}"},
        ),
        Panel(
            "Descriptors",
            "Open, of those allowed. At all of them no connection is accepted.",
            Kind.SHARE,
            {
                "{{instance}}": "max by (instance, job) "
                f"(process_open_fds{{OF}} / process_max_fds{{OF}}) {of}"
            },
        ),
        Panel(
            "Event-loop lag",
            "How late timers run, one in a hundred. Every answer waits as long.",
            Kind.SECONDS,
            {
                "{{instance}}": "histogram_quantile(0.99, sum by (instance, job, le) "
                f"(rate(authz_event_loop_lag_seconds_bucket{{OF}}[W]))) {of}"
            },
        ),
        Panel(
            "Versions",
            "How many processes run which. More than one only while it is rolled out.",
            Kind.COUNT,
            {"{{version}}": f"count by (version) (authz_build_info{{OF}} {of})"},
        ),
    )
