"""What the core needs from the outside, as Protocols: the adapters implement them, the tests' fakes too."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from service.domain.command import EnsureCommand, Origin
from service.domain.key import KeyFinding
from service.domain.log_group import AccountId, KeyArn, KeyRef, Lane, LogGroup, Region, TenantId
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass, Outcome
from service.domain.tenancy import Decision

Headers = Sequence[tuple[str, bytes]]  # names may repeat

MAX_DESCRIBED: Final = 50  # log groups; DescribeLogGroups' limit for a page, and for logGroupIdentifiers


class Clock(Protocol):
    """Time, injected so that tests run in virtual time."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""

    def epoch_ms(self) -> int:
        """Milliseconds since 1970, for what leaves the process."""


class Rules(Protocol):
    """What the registry says of one account's log groups, in memory: `decide` and `depends_on_tags` as in TenantDirectory."""

    def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision: ...

    def depends_on_tags(self, log_group: LogGroup) -> bool: ...


class TenantDirectory(Protocol):
    """Which tenant owns a log group, and which key is theirs in its Region."""

    async def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide by the registry as it is now. `tags` is None where they are not known.

        Raises CallFailedError(REGISTRY_UNAVAILABLE) when the registry cannot be asked; never guesses.
        """

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change the decision, so that it is worth looking them up. Raises as `decide` does."""

    async def lists_ignored(self, account: AccountId) -> bool:
        """Whether groups there are left alone for the tag `logwarden:ignore` also where nothing shows their tags. Raises as `decide`."""

    def at_hand(self, account: AccountId) -> Rules | None:
        """What `decide` would go by at this moment; None where it would have to wait for the registry first."""

    async def lists(self, account: AccountId) -> bool:
        """Whether some rule lists the account: in no other is a role assumed. Raises as `decide` does."""

    async def renew(self, account: AccountId) -> None:
        """Let decisions in an account from now on be made by what the registry holds now, where it can be asked. Never raises."""

    async def lanes(self) -> Collection[Lane] | None:
        """Where log groups may be anybody's who has a key there. None where the registry can only be asked account by account.

        Asks the registry itself, for all there is, which may take seconds. Raises as `decide` does.
        """

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]] | None:
        """Where log groups may be each of these tenants', with its key there; a tenant that there is not is left out. See `lanes`."""

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]] | None:
        """Every tenant's keys, to see that some have changed: cheap while nothing has. None and errors as in `lanes`."""


@dataclass(frozen=True, slots=True)
class LogGroupPage:
    """Some log groups of a lane and their keys, None for a group without one; `next_token` leads on, None where there are no more."""

    keys: Mapping[str, KeyArn | None]
    next_token: str | None


class LogGroups(Protocol):
    """CloudWatch Logs, as far as Logwarden uses it. One call is one request: retries are the caller's."""

    async def ready(self, lane: Lane) -> None:
        """Return when a call in the lane would go out at once: the account's session is there, renewed where that is due, and a client.

        To be awaited before a token is. Raises CallFailedError as a call does that cannot be made.
        """

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        """Call AssociateKmsKey once. Idempotent: a repeat with the same key changes nothing. Raises CallFailedError.

        A cancelled call may or may not have taken effect.
        """

    async def tags_of(self, log_group: LogGroup) -> Mapping[str, str]:
        """The group's tags as they are now. AWS allows 5 such calls a second for an account and Region. Raises CallFailedError."""

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        """The keys of up to MAX_DESCRIBED log groups, by exact name; more raise ValueError. Raises CallFailedError.

        None is a group without a key; groups that do not exist are left out. The key is what AWS shows, which may lag a second
        behind `associate`.
        """

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        """The next MAX_DESCRIBED log groups of a lane at most, in order of name; None begins. Raises CallFailedError.

        One DescribeLogGroups call. A group that is made or deleted between two pages may be seen or not; every other is, once. AWS
        honours a token for a day.
        """

    async def with_tag(self, lane: Lane, tag: str, token: str | None) -> tuple[Collection[str], str | None]:
        """Names of up to a thousand log groups that have a tag, whatever its value, and what leads on. One ListLogGroups call.

        Raises CallFailedError.
        """


class Keys(Protocol):
    """What is known of tenants' keys, for a log group's account: it is that account's caller who needs rights on the key."""

    async def inspect(self, key: KeyRef, log_group: LogGroup) -> KeyFinding:
        """Look at a key before it is used for a log group, or give what was found a while ago; an alias is resolved.

        Raises nothing for what AWS answers, or fails to: the finding says so. Callers at once share one look, and a cancelled one
        leaves it to the others.
        """

    def forget(self, key: KeyRef, log_group: LogGroup) -> None:
        """AWS refused a key of which `inspect` found nothing wrong: look anew when next asked, unless the look is seconds old."""


class GivenUpError(Exception):
    """Leave the record as it is, unfinished: it is to be read again, by the next owner of its partition or a better release."""


class StartOverError(GivenUpError):
    """Go back to the queue, and work the command from its beginning when it is its turn again: what it knows may be old by then."""


@dataclass(frozen=True, slots=True)
class IncomingRecord:
    """A record as it was read; `timestamp_ms` is Kafka's, in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class RecordTooLargeError(Exception):
    """The broker will never take this record, however often it is sent."""


class Publisher(Protocol):
    """Writes records durably."""

    async def publish(self, record: OutgoingRecord) -> None:
        """Return once every in-sync replica has the record; wait, as long as it takes, while the broker is away.

        Raises RecordTooLargeError. A repeat writes a duplicate. A cancelled publish may or may not have been written.
        """


class RecordHandler(Protocol):
    """What a consumer does with its records."""

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Take a record; finish its delivery once everything that follows from it is durable. Must not block."""

    async def drain(self, deadline_s: float) -> None:
        """Start nothing more, and return when what has started has ended, after `deadline_s` seconds at the latest.

        Deliveries that are not finished by then are somebody else's from here on.
        """

    def restart(self) -> None:
        """Take records again after a drain."""


class Membership(Protocol):
    """Told what a consumer group says of a member; must not block. Times are the clock's."""

    def proven(self, sent_at: float) -> None:
        """The group has confirmed, in answer to a question that was sent then, that the member's partitions are its own."""

    def refuted(self) -> None:
        """They may be somebody else's by now."""


class RecordFilter(Protocol):
    """Looks at a record's value before anything is made of the record: most of a stream concerns nobody."""

    def is_irrelevant(self, value: bytes) -> bool:
        """Whether nothing follows from a record of this value, so that it need not be handed over. Must be cheap."""

    def passed_over(self, count: int) -> None:
        """So many records were not handed over."""


class Observer(Protocol):
    """Told what happens, for metrics and logs; must not raise, and must not take long."""

    def event_read(self, *, commands: int, problem: str | None) -> None:
        """A source record gave this many commands; `problem` is the field that was malformed. Neither: it was irrelevant."""

    def events_irrelevant(self, count: int) -> None:
        """So many source records were irrelevant, as a look at their bytes told."""

    def command_done(self, command: EnsureCommand, outcome: Outcome, *, seconds: float) -> None:
        """An outcome is durable; `seconds` is the time since the trigger entered Kafka."""

    def verified(self, *, right: int, wrong: int, unseen: int) -> None:
        """So many groups were looked at after they were sealed: under their key, not under it, not to be seen."""

    def dead_lettered(self, failure: FailureClass, *, topic: str, origin: Origin | None, reason: str) -> None:
        """A record of `topic` went to the dead-letter topic; `origin` is the one that first asked, None where it came over HTTP."""

    def dead_letters_stopped(self, reason: str) -> None:
        """The limit is reached: nothing more becomes a dead letter before a restart."""

    def command_too_new(self, record: str, reason: str) -> None:
        """The first command of a partition (topic/partition/offset) that only a newer release can read; more may follow."""

    def command_misplaced(self, record: Origin, *, home: int) -> None:
        """A command was on another partition than `home`, its lane's, and is there now."""

    def lane_held(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        """A lane waits, for a fault that no record can help."""

    def lane_retries(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        """The first call of a lane since one came to something has failed, and is made again in place. Once a minute at the most."""
