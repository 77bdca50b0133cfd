"""Revocations as a feed tells them."""

import math

from authz.revocation.entry import TOKEN, USER, Entry
from authz.revocation.record import ANY_USER, TokenRef
from authz.settings import MAX_LEEWAY, MAX_LIFETIME


def token_entry(ref: TokenRef, until: float, *, any_user: bool = False) -> Entry:
    """`until`: when the store may forget it, in seconds since 1970."""
    user = ANY_USER if any_user else ref.user
    return Entry(TOKEN, user, ref.token, 0, round(until * 1000), "")


def cutoff_entry(ref: TokenRef, not_before: float) -> Entry:
    """Of all tokens of the user of this one that were issued before (seconds since 1970)."""
    expires = round((not_before + MAX_LIFETIME + MAX_LEEWAY) * 1000)
    return Entry(USER, ref.user, "", math.ceil(not_before * 1000), expires, "")
