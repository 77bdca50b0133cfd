"""Following the revocations of a store, as they are written."""
