"""What the token service issues, refreshes and takes back. No HTTP here."""
