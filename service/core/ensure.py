"""One ensure: resolve the tenant and the key, look at the group, associate with retries. Everything here is over the ports."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from service.core.ignored import Ignored
from service.core.observations import Observations
from service.core.turn import Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.history import MAX_FLIPS, History
from service.domain.key import UnknownKey, UnusableKey, UsableKey
from service.domain.log_group import KeyArn, LogGroup, TenantId, key_arn_in
from service.domain.outcome import CallFailedError, FailureClass, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.tenancy import Excluded, Overwrite, Owned, Undecided
from service.ports import Clock, Keys, LogGroups, Rules, TenantDirectory

_T = TypeVar("_T")

# Somebody else may have changed the key: what is not as it should be then is a flip. (A new group without a key is not.)
_CHANGES: Final = frozenset({Trigger.KEY_ASSOCIATED, Trigger.KEY_DISASSOCIATED, Trigger.VERIFY})

_KEEP_OLD_KEY: Final = "data written before stay under the old key: keep it enabled for as long as they are retained"
# That a producer's clock may be ahead of ours: a record from further in the future is no news.
_CLOCK_SKEW_S: Final = 5.0
_FIRST_WAIT_S: Final = 0.5  # the longest first wait between two tries; then twice that, and so on
# A lane in which a token takes so long has seconds between its tokens: there the registry may be waited for with one in hand. Anywhere
# else the calls would come together when it answers.
_LONG_QUEUE_S: Final = 15.0
_LONG_AGO: Final = float("-inf")
_LOOK_FRESH_S: Final = 1.0  # after which a key that is not to be overwritten is looked for once more before a call
_TAGS_FRESH_S: Final = 3.0  # after which tags that decide are looked up once more before a call: tenants change them
_OF_THE_KEY: Final = frozenset({FailureClass.KEY_NOT_USABLE, FailureClass.KEY_NOT_FOUND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How commands are worked. `attempts` is how often a call is tried in place, `max_wait_s` the longest wait in between.

    What an event shows of a group's key is believed for `observe_after_s` seconds; after that AWS is asked. A contested group waits
    only if `is_damped`. A dry run does all but the call, and has the key's policy say what would come of it.
    """

    attempts: int
    max_wait_s: float
    observe_after_s: float
    is_damped: bool = True
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Tags:
    """The tags that a decision is made by; `read_at` is when rules had them looked up (monotonic seconds), None where they did not:
    then they are the trigger's, or show the group left alone or not.
    """

    tags: Mapping[str, str] | None
    read_at: float | None = None


@dataclass(slots=True)
class _Known:
    """A command that is worked, and what has been found out of its group by now. `attempts` counts AssociateKmsKey calls."""

    command: EnsureCommand
    turn: Turn
    attempts: int = 0
    rules: Rules | None = None  # what was decided by, where that was at hand, and by which tags
    tags: _Tags | None = None
    tenant: TenantId | None = None
    key: KeyArn | None = None  # the right one
    shown: str | None = None  # the key that the group has
    seen_at: float = 0.0  # when that was found out; monotonic seconds
    old_key: str | None = None
    flips: int = 0

    @property
    def log_group(self) -> LogGroup:
        return self.command.log_group

    def ended(self, state: State, detail: str = "", failure: FailureClass | None = None) -> Outcome:
        return Outcome(
            log_group=self.log_group,
            state=state,
            tenant=self.tenant,
            key=self.key,
            old_key=self.old_key,
            failure=failure,
            detail=detail,
            attempts=self.attempts,
            flips=self.flips,
        )


class _DecidedAnewError(Exception):
    """While the command waited, the registry came to say something else of its log group, or an alias of its key."""


class Ensure:
    """Ensures single log groups, any number concurrently."""

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        log_groups: LogGroups,
        keys: Keys,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._directory = directory
        self._log_groups = log_groups
        self._keys = keys
        self._observations = Observations(log_groups)
        self._ignored = Ignored(log_groups, clock=clock)
        self._clock = clock
        self._policy = policy
        self._history = History()

    @property
    def is_dry_run(self) -> bool:
        return self._policy.is_dry_run

    async def __call__(self, command: EnsureCommand, turn: Turn) -> Outcome:
        """Bring one group under its tenant's key. State FAILED stands for any failure: what that leads to is decided elsewhere.

        Idempotent: a repeated or cancelled run may associate again, with the key that is the tenant's by then. Raises GivenUpError.
        """
        known = _Known(command, turn)
        while True:
            try:
                return await self._ensured(known)
            except _DecidedAnewError:
                known = _Known(command, turn, known.attempts)
            except CallFailedError as e:
                return known.ended(State.FAILED, e.detail, e.failure)

    async def _ensured(self, known: _Known) -> Outcome:
        """Decide whose the group is, and act on it. Raises CallFailedError for a call that was made in vain, any number of times."""
        command, group = known.command, known.log_group
        if command.trigger is Trigger.TAGGED:
            self._ignored.changed(group.lane)
        rules = self._directory.at_hand(group.account)  # or the registry is waited for
        if rules is not None:
            is_looked_up = rules.depends_on_tags(group)
        else:
            is_looked_up = await known.turn.prepare(self._directory.depends_on_tags(group))
        tags = await self._looked_up(known) if is_looked_up else _Tags(command.tags)
        if rules is not None:
            decision = rules.decide(group, tags.tags)
        else:
            decision = await known.turn.prepare(self._directory.decide(group, tags.tags))
        known.rules, known.tags = rules, tags
        if isinstance(decision, Excluded):
            return known.ended(State.EXCLUDED, decision.reason)
        known.tenant = decision.tenant
        if command.only_tenant not in {None, decision.tenant}:
            return known.ended(State.EXCLUDED, f"only {command.only_tenant}'s log groups are asked for")
        if isinstance(decision, Undecided):
            return known.ended(State.FAILED, decision.detail, decision.failure)
        return await self._seal(known, decision, tags)

    async def _seal(self, known: _Known, owned: Owned, tags: _Tags) -> Outcome:
        """Bring the group under its tenant's key, unless it is there already."""
        command = known.command
        known.key = await self._right_key(owned, known)
        shown, who = command.shown_key, "AWS" if command.trigger is Trigger.SWEEP else "the event"
        if not self._is_told(command, owned, known.key):
            shown, who = await self._shown(known, owned), "AWS"
        known.old_key = next((key for key in (shown, command.shown_key) if key and key != known.key), None)
        known.shown, known.seen_at = shown, self._clock.now()
        if shown == known.key:
            return known.ended(State.ALREADY_SEALED, f"{who} shows the right key")
        if (why_kept := owned.overwrite.why_kept(shown)) is not None:
            known.old_key = shown
            return known.ended(State.KEPT, f"{why_kept}; {owned.rule} decides")
        heeded = await self._heeded(known, tags)
        if heeded is not tags:
            decision = await known.turn.prepare(self._directory.decide(known.log_group, heeded.tags))
            if isinstance(decision, Excluded):
                return Outcome(log_group=known.log_group, state=State.EXCLUDED, detail=decision.reason)
            if decision != owned:
                raise _DecidedAnewError
        finding = await self._inspected(owned, known)
        if finding.key != known.key:
            raise _DecidedAnewError  # the alias stands for another key by now
        return await self._change(known, owned, finding, heeded)

    async def _change(self, known: _Known, owned: Owned, finding: UsableKey | UnknownKey, tags: _Tags) -> Outcome:
        """Bring under its tenant's key a group that is not, unless it is not to be done now.

        In a dry run the key's policy foretells what AWS would say. Enforcing asks AWS, who knows better.
        """
        command = known.command
        known.flips = self._history.flips(known.log_group, self._clock.now())
        if self._policy.is_dry_run:
            if isinstance(finding, UsableKey) and finding.is_withheld(known.log_group):
                detail = f"AWS was not asked, this is a dry run; {finding.explain(known.log_group)}"
                return known.ended(State.FAILED, detail, FailureClass.KEY_NOT_USABLE)
            return known.ended(State.WOULD_SEAL, owned.rule)
        if self._is_to_wait(command, known.flips):
            who = f"; the last time it was {command.caller}" if command.caller else ""
            detail = f"brought back {known.flips} times within the hour{who}"
            return known.ended(State.FAILED, detail, FailureClass.CONTESTED)
        await self._associate(known, owned, finding.key, tags)
        self._history.sealed(known.log_group, self._clock.now(), is_flip=command.trigger in _CHANGES)
        return known.ended(State.SEALED, _KEEP_OLD_KEY if known.old_key else "")

    async def _associate(self, known: _Known, owned: Owned, key: KeyArn, tags: _Tags) -> None:
        """Make the call, once nothing has to be waited for any more and while the decision stands. Raises CallFailedError."""
        group = known.log_group

        async def associate() -> None:
            nonlocal tags
            if tags.read_at is not None and self._clock.now() - tags.read_at >= _TAGS_FRESH_S:  # it was tried before
                tags = await self._looked_up(known)
            if owned.overwrite is not Overwrite.ALWAYS and self._clock.now() - known.seen_at >= _LOOK_FRESH_S:
                if await self._shown(known, owned) != known.shown:
                    raise _DecidedAnewError  # somebody has put a key on, or off
                known.seen_at = self._clock.now()
            await known.turn.session(self._log_groups.ready(group.lane))  # nothing may wait between token and call
            queued_at = self._clock.now()
            async with known.turn.call(Quota.ASSOCIATE):
                rules = self._directory.at_hand(group.account)
                if rules is None and self._clock.now() - queued_at >= _LONG_QUEUE_S:
                    await self._directory.decide(group, tags.tags)
                    rules = self._directory.at_hand(group.account)
                if rules is None or not _still_stands(known, owned, rules, tags):
                    raise _DecidedAnewError  # what the registry says now is waited for without a token
                known.attempts += 1
                known.seen_at = _LONG_AGO  # a call that fails may have met somebody else's
                await self._log_groups.associate(group, key)

        try:
            await self._persist(associate, known.turn)
        except CallFailedError as e:
            if e.failure in _OF_THE_KEY:
                raise CallFailedError(
                    e.failure, f"{e.detail}; {await known.turn.prepare(self._about(owned, group))}"
                ) from e
            raise

    # -- what has to be known

    async def _looked_up(self, known: _Known) -> _Tags:
        """The tags as they are: those that a trigger shows are its sender's word, and old.

        Raises CallFailedError: where there is no list of the lane's either, a refusal is for a role that lacks rights, not of this group.
        """
        group, turn = known.log_group, known.turn

        async def look_up() -> _Tags:
            await turn.session(self._log_groups.ready(group.lane))
            async with turn.call(Quota.TAGS):
                read_at = self._clock.now()
                return _Tags(await self._log_groups.tags_of(group), read_at)

        try:
            return await self._persist(look_up, turn)
        except CallFailedError as e:
            if e.failure is not FailureClass.NOT_AUTHORIZED:
                raise
            if await self._persist(partial(self._ignored.has_list, group.lane, turn), turn):
                raise
            raise CallFailedError(FailureClass.TAGS_NOT_READABLE, e.detail) from e

    async def _heeded(self, known: _Known, tags: _Tags) -> _Tags:
        """The tags, looked up where nothing proves them and the group may have the one that has it left alone.

        Only CloudTrail's record of a group that was made this minute proves all its tags. Others' events are their senders' word: one
        that shows the tag has had the group left alone by now, one that does not show it says nothing.
        """
        command, group = known.command, known.log_group
        if tags.read_at is not None or self._is_just_made(command):
            return tags
        if not await known.turn.prepare(self._directory.lists_ignored(group.account)):
            return tags
        is_to_ask = command.trigger is Trigger.TAGGED or await self._persist(
            partial(self._ignored.may_have, group, known.turn), known.turn
        )
        return _Tags((await self._looked_up(known)).tags) if is_to_ask else tags

    async def _right_key(self, owned: Owned, known: _Known) -> KeyArn:
        """The key's own ARN, which is what AWS shows of a group; only an alias is looked at for it. Raises CallFailedError."""
        return key_arn_in(owned.key) or (await self._inspected(owned, known)).key

    async def _inspected(self, owned: Owned, known: _Known) -> UsableKey | UnknownKey:
        """What there is to know of the key. Raises CallFailedError for one that cannot be used."""
        await known.turn.session(self._log_groups.ready(known.log_group.lane))  # the look at the key needs it too
        finding = await known.turn.prepare(self._keys.inspect(owned.key, known.log_group))
        if isinstance(finding, UnusableKey):
            raise CallFailedError(finding.failure, finding.detail)
        return finding

    async def _shown(self, known: _Known, owned: Owned) -> str | None:
        """The key that AWS shows, None for none.

        None too where we may not look: whoever may not may still associate, unless there may be something not to overwrite.
        """
        try:
            return await self._persist(partial(self._observations.key_of, known.log_group, known.turn), known.turn)
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

    async def _about(self, owned: Owned, log_group: LogGroup) -> str:
        """What there is to say of a key that AWS refused, although nothing spoke against it."""
        self._keys.forget(owned.key, log_group)
        finding = await self._keys.inspect(owned.key, log_group)
        return finding.detail if isinstance(finding, UnusableKey) else finding.explain(log_group)

    # -- calls

    async def _persist(self, call: Callable[[], Awaitable[_T]], turn: Turn) -> _T:
        """Make a call, and make it again with full jitter while its failure may pass, each time with a token of its own.

        A command that finds out whether a fault of the whole lane is over tries once.
        """
        try:
            return await call()  # tenacity costs as much as a quarter of a call: it is for those that fail
        except CallFailedError as e:
            if self._is_enough(e, 1, turn):
                raise
            turn.retries(e)
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


def _still_stands(known: _Known, owned: Owned, rules: Rules, tags: _Tags) -> bool:
    """Whether a decision is what these rules say of these tags, which may be the very ones that it was made by."""
    if rules is known.rules and tags is known.tags:
        return True
    are_looked_up = tags.read_at is not None
    return rules.depends_on_tags(known.log_group) is are_looked_up and rules.decide(known.log_group, tags.tags) == owned
