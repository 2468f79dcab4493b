"""One ensure: resolve the tenant and the key, look at the group, associate with retries. Everything here is over the ports."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, assert_never

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from service.dispatcher import Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.history import MAX_FLIPS, History
from service.domain.key import UnusableKey
from service.domain.log_group import KeyArn, LogGroup, key_arn_in
from service.domain.outcome import CallFailedError, FailureClass, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.tenancy import Excluded, Overwrite, Owned, Undecided
from service.ignored import Ignored
from service.observations import Observations
from service.ports import Clock, Keys, LogGroups, Observer, TenantDirectory

_T = TypeVar("_T")

# Somebody else may have changed the key: what is not as it should be then is a flip. (A new group without a key is not.)
_CHANGES: Final = frozenset({Trigger.KEY_ASSOCIATED, Trigger.KEY_DISASSOCIATED, Trigger.VERIFY})

_KEEP_OLD_KEY: Final = "data written before stay under the old key: keep it enabled for as long as they are retained"
_CLOCK_SKEW_S: Final = (
    5.0  # that a producer's clock may be ahead of ours: a record from further in the future is no news
)
_FIRST_WAIT_S: Final = 0.5  # the longest first wait between two tries; then twice that, and so on
# A lane in which a token takes so long has seconds between its tokens: there the registry may be waited for with one in hand. Anywhere
# else the calls would come together when it answers.
_LONG_QUEUE_S: Final = 15.0
_TAGS_FRESH_S: Final = 3.0  # after which tags that decide are looked up once more before a call: tenants change them
_OF_THE_KEY: Final = frozenset({FailureClass.KEY_NOT_USABLE, FailureClass.KEY_NOT_FOUND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How commands are worked. `attempts` is how often a call is tried in place, `max_wait_s` the longest wait in between.

    What an event shows of a group's key is believed for `observe_after_s` seconds; after that AWS is asked. A contested group waits
    only if `is_damped`. A dry run does all but the call.
    """

    attempts: int
    max_wait_s: float
    observe_after_s: float
    is_damped: bool = True
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Tags:
    """The tags that a decision was made by; `read_at` is when rules had them looked up (monotonic seconds), None where they did not:
    then they are the trigger's, or show the group left alone or not.
    """

    tags: Mapping[str, str] | None
    read_at: float | None = None


class _DecidedAnewError(Exception):
    """While the command waited for its token, the registry came to say something else of its log group."""


class Ensure:
    """Ensures single log groups, any number concurrently."""

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        log_groups: LogGroups,
        keys: Keys,
        clock: Clock,
        observer: Observer,
        policy: Policy,
    ) -> None:
        self._directory = directory
        self._log_groups = log_groups
        self._keys = keys
        self._observations = Observations(log_groups)
        self._ignored = Ignored(log_groups, clock=clock)
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._history = History()

    @property
    def is_dry_run(self) -> bool:
        return self._policy.is_dry_run

    async def __call__(self, command: EnsureCommand, turn: Turn) -> Outcome:
        """Bring one group under its tenant's key. State FAILED stands for any failure: what that leads to is decided elsewhere.

        Idempotent: a repeated or cancelled run may associate again, with the key that is the tenant's by then. Raises GivenUpError.
        """
        outcome = partial(Outcome, log_group=command.log_group)
        try:
            is_looked_up = await self._directory.depends_on_tags(command.log_group)
            tags = await self._looked_up(command.log_group, turn) if is_looked_up else _Tags(command.tags)
            decision = await self._directory.decide(command.log_group, tags.tags)
        except CallFailedError as e:
            return outcome(state=State.FAILED, failure=e.failure, detail=e.detail)
        match decision:
            case Excluded(reason):
                return outcome(state=State.EXCLUDED, detail=reason)
            case Undecided() | Owned() if command.only_tenant not in {None, decision.tenant}:
                detail = f"only {command.only_tenant}'s log groups are asked for"
                return outcome(state=State.EXCLUDED, tenant=decision.tenant, detail=detail)
            case Undecided(failure, detail, tenant):
                return outcome(state=State.FAILED, tenant=tenant, failure=failure, detail=detail)
            case Owned():
                try:
                    return await self._seal(command, tags, decision, turn)
                except _DecidedAnewError:
                    return await self(command, turn)
                except CallFailedError as e:
                    return outcome(state=State.FAILED, tenant=decision.tenant, failure=e.failure, detail=e.detail)
            case _:
                assert_never(decision)

    async def _looked_up(self, log_group: LogGroup, turn: Turn) -> "_Tags":
        """The tags as they are: those that a trigger shows are its sender's word, and old."""

        async def look_up() -> "_Tags":
            await self._log_groups.ready(log_group.account)
            async with turn.call(Quota.TAGS):
                read_at = self._clock.now()
                return _Tags(await self._log_groups.tags_of(log_group), read_at)

        return await self._persist(look_up, turn)

    async def _seal(self, command: EnsureCommand, tags: "_Tags", owned: Owned, turn: Turn) -> Outcome:
        """Bring the group under its tenant's key, unless it is there already."""
        outcome = partial(Outcome, log_group=command.log_group, tenant=owned.tenant)
        key, who = command.shown_key, "AWS" if command.trigger is Trigger.SWEEP else "the event"
        try:
            right_key = await self._right_key(owned, command.log_group)
            outcome = partial(outcome, key=right_key)
            if not self._is_told(command, owned, right_key):
                key, who = await self._shown(command.log_group, owned, turn), "AWS"
        except CallFailedError as e:
            return outcome(state=State.FAILED, failure=e.failure, detail=e.detail)
        others = (shown for shown in (key, command.shown_key) if shown and shown != right_key)
        outcome = partial(outcome, old_key=next(others, None))
        if key == right_key:
            return outcome(state=State.ALREADY_SEALED, detail=f"{who} shows the right key")
        if (why_kept := owned.overwrite.why_kept(key)) is not None:
            return outcome(state=State.KEPT, old_key=key, detail=f"{why_kept}; {owned.rule} decides")
        heeded = await self._heeded(command, tags, turn)
        if heeded is not tags:
            decision = await self._directory.decide(command.log_group, heeded.tags)
            if isinstance(decision, Excluded):
                return Outcome(log_group=command.log_group, state=State.EXCLUDED, detail=decision.reason)
            if decision != owned:
                raise _DecidedAnewError
        return await self._change(command, heeded, owned, right_key, outcome, turn)

    async def _change(
        self,
        command: EnsureCommand,
        tags: "_Tags",
        owned: Owned,
        right_key: KeyArn,
        outcome: "partial[Outcome]",
        turn: Turn,
    ) -> Outcome:
        """Bring under its tenant's key a group that is not."""
        finding = await self._keys.inspect(owned.key, command.log_group)
        if isinstance(finding, UnusableKey):
            return outcome(state=State.FAILED, failure=finding.failure, detail=finding.detail)
        if finding.key != right_key:
            raise _DecidedAnewError  # the alias stands for another key by now
        flips = self._history.flips(command.log_group, self._clock.now())
        outcome = partial(outcome, flips=flips)
        if self._policy.is_dry_run:
            return outcome(state=State.WOULD_SEAL, detail=owned.rule)
        if self._is_to_wait(command, flips):
            who = f"; the last time it was {command.caller}" if command.caller else ""
            detail = f"brought back {flips} times within the hour{who}"
            return outcome(state=State.FAILED, failure=FailureClass.CONTESTED, detail=detail)
        return await self._associate(command, tags, owned, finding.key, outcome, turn)

    async def _heeded(self, command: EnsureCommand, tags: "_Tags", turn: Turn) -> "_Tags":
        """The tags, looked up where nothing shows them and the group may have the one that has it left alone. Raises CallFailedError.

        A group that was made this minute is of an event that shows all its tags.
        """
        group = command.log_group
        if tags.tags is not None or self._is_just_made(command):
            return tags
        if not await self._directory.lists_ignored(group.account):
            return tags
        is_to_ask = command.trigger is Trigger.TAGGED or await self._persist(
            partial(self._ignored.may_have, group, turn), turn
        )
        return _Tags((await self._looked_up(group, turn)).tags) if is_to_ask else tags

    async def _right_key(self, owned: Owned, log_group: LogGroup) -> KeyArn:
        """The key's own ARN, which is what AWS shows of a group. Raises CallFailedError for an alias that stands for none."""
        if (arn := key_arn_in(owned.key)) is not None:
            return arn
        finding = await self._keys.inspect(owned.key, log_group)
        if isinstance(finding, UnusableKey):
            raise CallFailedError(finding.failure, finding.detail)
        return finding.key

    async def _shown(self, log_group: LogGroup, owned: Owned, turn: Turn) -> str | None:
        """The key that AWS shows, None for none.

        None too where we may not look: whoever may not may still associate, unless there may be something not to overwrite.
        """
        try:
            return await self._persist(partial(self._observations.key_of, log_group, turn), turn)
        except CallFailedError as e:
            if e.failure is FailureClass.NOT_AUTHORIZED and owned.overwrite is Overwrite.ALWAYS:
                return None
            raise

    def _is_told(self, command: EnsureCommand, owned: Owned, right_key: KeyArn) -> bool:
        """Whether the trigger itself tells which key the group has: it names the right one, or is of a group made this minute.

        The latter only where nothing depends on it: that a group has no key yet, its sender alone says.
        """
        is_first_look = self._is_just_made(command) and owned.overwrite is Overwrite.ALWAYS
        return is_first_look or (self._is_fresh(command) and command.shown_key == right_key)

    def _is_just_made(self, command: EnsureCommand) -> bool:
        """Whether the group was made this minute, and the event of it shows all there is to know."""
        is_new = command.trigger is Trigger.CREATED and not self._history.has(command.log_group)
        return is_new and self._is_fresh(command)

    def _is_fresh(self, command: EnsureCommand) -> bool:
        """Whether what the trigger shows of the key, if anything, may be believed: it was a moment ago."""
        age_s = (self._clock.epoch_ms() - command.accepted_at_ms) / 1000
        return command.shown_key is not None and -_CLOCK_SKEW_S <= age_s < self._policy.observe_after_s

    def _is_to_wait(self, command: EnsureCommand, flips: int) -> bool:
        is_first = command.trigger in _CHANGES and not command.deferrals
        return self._policy.is_damped and is_first and flips >= MAX_FLIPS

    async def _associate(
        self,
        command: EnsureCommand,
        tags: "_Tags",
        owned: Owned,
        key: KeyArn,
        outcome: "partial[Outcome]",
        turn: Turn,
    ) -> Outcome:
        log_group, attempts = command.log_group, 0

        async def associate() -> None:
            nonlocal attempts, tags
            if tags.read_at is not None and self._clock.now() - tags.read_at >= _TAGS_FRESH_S:  # it was tried before
                tags = await self._looked_up(log_group, turn)
            await self._log_groups.ready(log_group.account)  # nothing may wait between the token and the call
            queued_at = self._clock.now()
            async with turn.call(Quota.ASSOCIATE):
                rules = self._directory.at_hand(log_group.account)
                if rules is None and self._clock.now() - queued_at >= _LONG_QUEUE_S:
                    await self._directory.decide(log_group, tags.tags)
                    rules = self._directory.at_hand(log_group.account)
                if rules is None or rules.depends_on_tags(log_group) is not (tags.read_at is not None):
                    raise _DecidedAnewError  # what it says now is waited for without a token; or it is other tags that count
                if rules.decide(log_group, tags.tags) != owned:
                    raise _DecidedAnewError
                attempts += 1
                await self._call(log_group, key)

        try:
            await self._persist(associate, turn)
        except CallFailedError as e:
            detail = f"{e.detail}; {await self._about(owned, log_group)}" if e.failure in _OF_THE_KEY else e.detail
            return outcome(state=State.FAILED, attempts=attempts, failure=e.failure, detail=detail)
        self._history.sealed(log_group, self._clock.now(), is_flip=command.trigger in _CHANGES)
        detail = _KEEP_OLD_KEY if outcome.keywords["old_key"] else ""
        return outcome(state=State.SEALED, attempts=attempts, detail=detail)

    async def _about(self, owned: Owned, log_group: LogGroup) -> str:
        """What there is to say of a key that AWS refused, although nothing spoke against it."""
        self._keys.forget(owned.key, log_group)
        finding = await self._keys.inspect(owned.key, log_group)
        return finding.detail if isinstance(finding, UnusableKey) else finding.explain(log_group)

    async def _call(self, log_group: LogGroup, key: KeyArn) -> None:
        started = self._clock.now()
        try:
            await self._log_groups.associate(log_group, key)
        except CallFailedError as e:
            self._observer.call_made(log_group.lane, failure=e.failure, seconds=self._clock.now() - started)
            raise
        self._observer.call_made(log_group.lane, failure=None, seconds=self._clock.now() - started)

    async def _persist(self, call: Callable[[], Awaitable[_T]], turn: Turn) -> _T:
        """Make a call, and make it again with full jitter while its failure may pass, each time with a token of its own.

        A command that finds out whether a fault of the whole lane is over tries once.
        """
        try:
            return await call()  # tenacity costs as much as a quarter of a call: it is for those that fail
        except CallFailedError as e:
            if self._is_enough(e, 1, turn):
                raise
        await turn.pause(random.uniform(0, min(_FIRST_WAIT_S, self._policy.max_wait_s)))  # noqa: S311  no secret
        return await AsyncRetrying(  # an instance a use: a shared one keeps its attempts between tasks
            retry=retry_if_exception_type(CallFailedError),
            stop=lambda state: self._is_enough(
                state.outcome.exception() if state.outcome else None, state.attempt_number + 1, turn
            ),
            wait=wait_random_exponential(multiplier=2 * _FIRST_WAIT_S, max=self._policy.max_wait_s),
            sleep=turn.pause,
            reraise=True,
        )(call)

    def _is_enough(self, error: BaseException | None, attempts: int, turn: Turn) -> bool:
        if not isinstance(error, CallFailedError):
            return False
        is_the_lanes = error.failure.recourse is Recourse.HOLD
        return (
            not error.failure.is_retried_in_place
            or attempts >= self._policy.attempts
            or (is_the_lanes and turn.is_probing)
        )
