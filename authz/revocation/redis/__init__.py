"""Revocations in Redis or Valkey: the way to its nodes, look-ups, writes."""
