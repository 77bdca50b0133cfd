"""What may be used once in the whole cluster: one-time tokens, proofs of possession."""
