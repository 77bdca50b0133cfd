"""The client applications of the token service: who they are and what they may ask for."""
