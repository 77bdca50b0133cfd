"""`authz revoke --from-file`: many revocations from a file, on from where it was interrupted."""
