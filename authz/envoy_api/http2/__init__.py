"""HTTP/2 for a server of small unary calls (RFC 9113): bytes in, events and bytes out."""
