"""How Envoy speaks: the ext_authz v3 messages and the servers that carry them."""
