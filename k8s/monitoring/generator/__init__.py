"""Makes what is checked in beside it: dashboards, the PrometheusRule, the runbook."""
