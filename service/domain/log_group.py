"""Identities: which log group, in which account and Region, and the lane whose quota it shares."""

import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

AccountId = NewType("AccountId", str)
Region = NewType("Region", str)
KeyArn = NewType("KeyArn", str)
KeyAlias = NewType("KeyAlias", str)  # an alias's ARN: KMS knows the key that it stands for, and may be told another one
KeyRef = KeyArn | KeyAlias
TenantId = NewType("TenantId", str)

# The service model's pattern and lengths for logGroupName, and the 12 digits of an account id. \Z, not $: $ lets a newline through.
_NAME = re.compile(r"[.\-_/#A-Za-z0-9]{1,512}\Z")
_ACCOUNT = re.compile(r"[0-9]{12}\Z")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}\Z")
_KEY_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):key/(?P<id>[A-Za-z0-9-]+)\Z"
)
_KEY_ALIAS = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):alias/(?P<name>[A-Za-z0-9:/_-]+)\Z"
)
_LOG_GROUP_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):logs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):log-group:(?P<name>[^:]+)(:\*)?\Z"
)
# Of untrusted names there is no end.
_REGIONS_REMEMBERED: Final = 256
_LANES_REMEMBERED: Final = 4096
MAX_KEY_ARN_LENGTH = 256  # characters; AssociateKmsKey's kmsKeyId

# By the start of the Region's name, after botocore's partitions.json; a test holds the two together.
_PARTITION_BY_PREFIX = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}
_DNS_SUFFIX_BY_PARTITION = {
    "aws-cn": "amazonaws.com.cn",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-iso-e": "cloud.adc-e.uk",
    "aws-iso-f": "csp.hci.ic.gov",
    "aws-eusc": "amazonaws.eu",
}


class InvalidIdentityError(ValueError):
    """A name, account id, Region or ARN that AWS could not have issued. `field` says which."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} {_shown(value)} is not {expected}")
        self.field = field


def _shown(value: object) -> str:
    """The value for an error text: a string cut to one line, of anything else the type, since it may be too deep to be shown."""
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = repr(value[:80])
    return text if len(text) <= 80 else f"{text[:77]}..."


@lru_cache(_REGIONS_REMEMBERED)
def partition_of(region: str) -> str:
    """The AWS partition that a Region belongs to: `aws`, `aws-cn`, `aws-us-gov`, ..."""
    return next((name for prefix, name in _PARTITION_BY_PREFIX.items() if region.startswith(prefix)), "aws")


def dns_suffix_of(region: str) -> str:
    """How the names of AWS's services end in a Region: `amazonaws.com`, `amazonaws.com.cn`, ..."""
    return _DNS_SUFFIX_BY_PARTITION.get(partition_of(region), "amazonaws.com")


def account_id(value: object) -> AccountId:
    """Check an account id. Raises InvalidIdentityError.

    Interned, as Regions are: a hundred thousand waiting commands share a few such strings.
    """
    if not isinstance(value, str) or not _ACCOUNT.match(value):
        raise InvalidIdentityError("account", value, "an account id of 12 digits")
    return AccountId(sys.intern(value))


def region_name(value: object) -> Region:
    """Check a Region's form, not its existence: AWS adds Regions faster than we release. Raises InvalidIdentityError."""
    if not isinstance(value, str) or not _REGION.match(value):
        raise InvalidIdentityError("region", value, "a Region name such as eu-west-1")
    return Region(sys.intern(value))


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """One account and Region: the pair that AWS's quota of 5 AssociateKmsKey calls a second counts."""

    account: AccountId
    region: Region

    def __str__(self) -> str:
        return f"{self.account}:{self.region}"


# A log group is asked for its lane ten times on its way, and dictionaries find an object that they know without comparing: 7 us.
_lane = lru_cache(_LANES_REMEMBERED)(Lane)


@dataclass(frozen=True, slots=True, order=True)
class LogGroup:
    """One log group of one account and Region."""

    account: AccountId
    region: Region
    name: str

    @classmethod
    def of(cls, account: object, region: object, name: object) -> "LogGroup":
        """A log group from untrusted parts. Raises InvalidIdentityError, which names the part."""
        if not isinstance(name, str) or not _NAME.match(name):
            raise InvalidIdentityError("log_group", name, r"a log group name (1 to 512 of [.\-_/#A-Za-z0-9])")
        return cls(account_id(account), region_name(region), name)

    @classmethod
    def from_arn(cls, arn: object) -> "LogGroup":
        """A log group from its ARN, with or without the trailing `:*`. Raises InvalidIdentityError."""
        match = _LOG_GROUP_ARN.match(arn) if isinstance(arn, str) else None
        if match is None:
            raise InvalidIdentityError("log_group_arn", arn, "a log group ARN")
        return cls.of(match["account"], match["region"], match["name"])

    @property
    def lane(self) -> Lane:
        return _lane(self.account, self.region)

    @property
    def arn(self) -> str:
        """The ARN as AssociateKmsKey's resourceIdentifier and key policies want it: without the trailing `:*`."""
        return f"arn:{partition_of(self.region)}:logs:{self.region}:{self.account}:log-group:{self.name}"

    def __str__(self) -> str:
        return f"{self.account}:{self.region}:{self.name}"


def key_arn(value: object) -> KeyArn:
    """Check that a value is a KMS key's ARN: not a bare id, not an alias. Raises InvalidIdentityError."""
    if not isinstance(value, str) or len(value) > MAX_KEY_ARN_LENGTH or not _KEY_ARN.match(value):
        raise InvalidIdentityError("key", value, "a KMS key ARN (arn:aws:kms:REGION:ACCOUNT:key/ID)")
    return KeyArn(value)


def key_ref(value: object) -> KeyRef:
    """Check that a value is the ARN of a KMS key or of an alias: not a bare id or name. Raises InvalidIdentityError."""
    if isinstance(value, str) and len(value) <= MAX_KEY_ARN_LENGTH and _KEY_ALIAS.match(value):
        return KeyAlias(value)
    try:
        return key_arn(value)
    except InvalidIdentityError as e:
        expected = "a KMS key's or alias's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID or :alias/NAME)"
        raise InvalidIdentityError("key", value, expected) from e


def key_arn_in(ref: KeyRef) -> KeyArn | None:
    """The key ARN that a reference is already; None for an alias, which KMS has to be asked about."""
    return KeyArn(ref) if _KEY_ARN.match(ref) else None


def key_region(ref: KeyRef) -> Region:
    """The Region in which a key, or an alias and its key, lives; a log group's key must be in the log group's own."""
    return Region(ref.split(":", 4)[3])


def key_account(ref: KeyRef) -> AccountId:
    """The account that a key, or an alias and its key, belongs to."""
    return AccountId(ref.split(":", 5)[4])
