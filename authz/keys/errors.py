"""What can go wrong with keys, as seen by whoever configured them."""


class KeySourceError(Exception):
    """A key source can't be read, or what it holds can't be used.

    The text is one line without the source's name, which the caller knows and puts in front. It
    holds no key material.
    """
