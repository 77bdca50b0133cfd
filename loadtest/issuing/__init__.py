"""What issuing, refreshing and revoking cost: the token service under load."""
