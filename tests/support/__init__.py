"""Real parts for tests: servers, proxies, clients, tokens. Nothing outside tests imports it."""
