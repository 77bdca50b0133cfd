"""An Envoy ext_authz sidecar that can take a JWT back."""

__version__ = "0.1.0"
