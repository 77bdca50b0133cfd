"""Whether a token is revoked: records, local caches, the stores and what happens without them."""
