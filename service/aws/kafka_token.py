"""The token that Amazon MSK takes for IAM's proof of who connects: a signed URL that nobody ever calls.

https://docs.aws.amazon.com/msk/latest/developerguide/msk-access-control.html; the form is that of AWS's own signers, and a test compares
the two byte for byte.
"""

from base64 import urlsafe_b64encode
from typing import Final
from urllib.parse import quote

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from service.aws.credentials import OwnCredentials

_VALID_S: Final = 900  # what AWS's signers ask for; MSK closes the connection when it is over
_SERVICE: Final = "kafka-cluster"


class KafkaTokens:
    """Tokens of this process's own credentials, for the clusters of one Region."""

    def __init__(self, *, own: OwnCredentials, region: str, user_agent: str) -> None:
        """`user_agent` (`name/version`) is for AWS's eyes only."""
        self._own = own
        self._region = region
        self._user_agent = user_agent

    async def token(self) -> str:
        """A new token, good for 15 minutes from now, for one connection: none is kept, so that each lasts as long as it can.

        Raises CallFailedError when there are no credentials. A repeat is harmless: making one asks nobody but their source.
        """
        return connect_token(await self._own.get_frozen_credentials(), region=self._region, user_agent=self._user_agent)


def connect_token(credentials: ReadOnlyCredentials, *, region: str, user_agent: str) -> str:
    """The signed URL of `kafka-cluster:Connect`, in base64url without padding. Its host is this one in every partition."""
    request = AWSRequest(
        method="GET", url=f"https://kafka.{region}.amazonaws.com/", params={"Action": f"{_SERVICE}:Connect"}
    )
    SigV4QueryAuth(credentials, _SERVICE, region, expires=_VALID_S).add_auth(request)
    url = f"{request.url}&User-Agent={quote(user_agent, safe='')}"  # MSK takes it out before it looks at the signature
    return urlsafe_b64encode(url.encode()).decode().rstrip("=")
