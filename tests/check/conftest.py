"""Hypothesis without a deadline: a busy machine is no bug."""

from hypothesis import settings

settings.register_profile("authz", deadline=None)
settings.load_profile("authz")
