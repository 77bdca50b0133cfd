"""A strict reader of `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 6750 section 3)."""

import re

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"([\x20-\x21\x23-\x5B\x5D-\x7E]*)"'  # the values that RFC 6750 allows
_PARAMETER = re.compile(rf"({_TOKEN})={_QUOTED}")
_CHALLENGE = re.compile(rf"({_TOKEN}) ((?:{_TOKEN}={_QUOTED})(?:, {_TOKEN}={_QUOTED})*)")


def parse_challenge(value: str) -> tuple[str, dict[str, str]]:
    """Scheme and parameters. AssertionError: no challenge, or a parameter twice."""
    match = _CHALLENGE.fullmatch(value)
    assert match, f"not a challenge: {value!r}"
    parameters = _PARAMETER.findall(match[2])
    assert len(dict(parameters)) == len(parameters), f"a parameter twice: {value!r}"
    return match[1], dict(parameters)
