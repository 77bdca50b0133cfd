"""Signing keys in HashiCorp Vault or OpenBao: the transit engine, and KV."""
