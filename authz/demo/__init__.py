"""`authz demo`: a guided tour with a real Envoy and a real Valkey."""
