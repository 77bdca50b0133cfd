"""What following the revocations costs and brings."""
