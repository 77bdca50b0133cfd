"""Several processes that answer checks behind one set of addresses: `serve --workers N`."""
