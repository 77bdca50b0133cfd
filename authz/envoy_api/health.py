"""`grpc.health.v1`: serving from the first call to the end, of the server and of the service."""

from typing import Final

from google.protobuf.message import DecodeError

from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.health_pb2 import HealthCheckRequest, HealthCheckResponse
from authz.envoy_api.service import AUTHORIZATION_SERVICE

HEALTH_OF: Final = frozenset({"", AUTHORIZATION_SERVICE})
"""What may be asked about: the server as a whole, and the service."""

_STATUS = HealthCheckResponse.ServingStatus
SERVING: Final = HealthCheckResponse(status=_STATUS.SERVING).SerializeToString()
NOT_SERVING: Final = HealthCheckResponse(status=_STATUS.NOT_SERVING).SerializeToString()
SERVICE_UNKNOWN: Final = HealthCheckResponse(status=_STATUS.SERVICE_UNKNOWN).SerializeToString()


class Health:
    """What a server says of itself."""

    def __init__(self) -> None:
        self.serving = True

    def status(self) -> bytes:
        """The HealthCheckResponse of now."""
        return SERVING if self.serving else NOT_SERVING


def knows(request: bytes) -> bool:
    """Whether a HealthCheckRequest asks about something in HEALTH_OF. MalformedRequestError."""
    message = HealthCheckRequest()
    try:
        message.ParseFromString(request)
    except DecodeError as error:
        raise MalformedRequestError("not a HealthCheckRequest") from error
    return message.service in HEALTH_OF
