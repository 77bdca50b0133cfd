"""What a check costs: load on a sidecar, beside a server that only answers OK."""
