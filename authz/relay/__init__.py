"""Copies the revocations of one region's store into another's."""
