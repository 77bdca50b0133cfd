"""What operators see: metrics, log events, health and status."""
