"""What is decided about a request. No sockets, no Redis, no clock of its own: time is passed in."""
