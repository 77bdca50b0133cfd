"""Where verification keys come from, what keeps them fresh, and how signing keys are made."""
