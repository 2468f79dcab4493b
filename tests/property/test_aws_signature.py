"""Our signatures are botocore's, byte for byte, and hold for what arrives."""

from datetime import UTC, datetime
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from service.aws.signature import canonical_path, signed

HOSTS = [
    "https://logs.eu-west-1.amazonaws.com",
    "https://logs.eu-west-1.amazonaws.com:443",
    "http://127.0.0.1:4566",
    "http://localhost:80",
    "https://[2001:db8::1]:8443",
    "https://VPCE-1.logs.eu-west-1.vpce.amazonaws.com",
]
printable = st.characters(codec="ascii", min_codepoint=0x20, max_codepoint=0x7E)
header_values = st.lists(st.sampled_from(["a", "B=1;", " ", "  ", ",", "%20"])).map("".join) | st.text(printable)
words = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/+=", min_size=1, max_size=80)


@given(
    host=st.sampled_from(HOSTS),
    path=st.text(printable.filter(lambda c: c not in "?#"), max_size=20).map(lambda path: f"/{path}"),
    headers=st.dictionaries(st.sampled_from(["Content-Type", "X-Amz-Target", "x-amz-target-b", "A"]), header_values),
    body=st.binary(max_size=400),
    access_key=words,
    secret=st.text(min_size=1, max_size=60).filter(lambda secret: secret.isprintable()),
    token=st.sampled_from([None, ""]) | words,
    region=st.sampled_from(["eu-west-1", "us-gov-east-1", "cn-north-1"]),
    service=st.sampled_from(["logs", "kms", "sts"]),
    at=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2099, 1, 1)),  # noqa: DTZ001  hypothesis wants naive bounds
)
def test_a_request_is_signed_as_botocore_signs_it(
    host, path, headers, body, access_key, secret, token, region, service, at
):
    url = f"{host}{path}"
    credentials = ReadOnlyCredentials(access_key, secret, token)
    request = AWSRequest(method="POST", url=url, headers=headers, data=body)
    with patch("botocore.auth.get_current_datetime", lambda: at.replace(tzinfo=UTC)):
        SigV4Auth(credentials, service, region).add_auth(request)

    ours = signed(
        {"Host": URL(host).host_port_subcomponent or "", **headers},
        path=canonical_path(url),
        body=body,
        credentials=credentials,
        region=region,
        service=service,
        timestamp=f"{at:%Y%m%dT%H%M%SZ}",
    )
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        assert ours.get(name) == request.headers.get(name), name
