"""The record of every request that was let through without asking the store."""
