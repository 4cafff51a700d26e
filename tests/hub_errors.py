"""What the hub's client raises where the hub is out of reach."""

import sys

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

HTTP = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]  # the HTTP library of the hub's client


def unreachable():
    request = HTTP.Request("GET", "https://huggingface.co/api/models/owner/name")
    return [
        HTTP.ConnectError("[Errno -2] Name or service not known"),
        HTTP.ConnectTimeout("timed out"),
        HTTP.ProxyError("407"),
        OfflineModeIsEnabled("HF_HUB_OFFLINE is set"),
        RepositoryNotFoundError(
            "404 Client Error.\n\nRepository Not Found", response=HTTP.Response(404, request=request)
        ),
        OSError("disk full"),
    ]
