"""How often something may be asked for, and who counts it."""
