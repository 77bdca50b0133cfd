"""The token service as HTTP: OAuth's endpoints, their errors and their description."""
