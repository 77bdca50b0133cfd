"""The keys that tokens are signed with: where they are kept, when they change, who signs."""
