"""The ledger: hands slices of windows to gateways, never more than is left, and settles what usage records charge.

    settled + outstanding <= limit, for all that is handed out

A slice is outstanding until it was returned, settled, or closed: by its gateway once the records of the process that
held it are delivered, or by an operator who writes it off. Every sum that a gateway sends only grows, so a message that
comes twice or late changes nothing. Windows are locked in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict, NotFound
from finmaas_core.windows import WindowKind, find_window
from finmaas_platform.db.allowances import AllowanceRow
from finmaas_platform.db.ledger import LedgerGatewayRow, LedgerSliceRow, LedgerWindowRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.allowances import decide_hand
from finmaas_platform.domain.batches import REPEATED
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.audit import record_audit
from finmaas_platform.services.snapshots import bump_snapshot

ALIVE_S = 15.0
WRITE_OFF_AFTER_S = 60.0
_CLOCKS_AGREE_S = 300.0
_SKEW_S = 0.5


@dataclass(frozen=True)
class Want:
    """More of a window: `need` beyond what is held, `least` the smallest part of it that helps."""

    allowance_id: str
    starts_at: int
    at: float
    granted: int
    need: int
    least: int


@dataclass(frozen=True)
class Told:
    """A slice as its holder sees it."""

    slice: int
    granted: int
    returned: int
    reserved: int
    round: int


@dataclass
class Asking:
    """A call as it waits for others to give back: by window the recall it waits for, and whether all were tight."""

    rounds: dict[int, int] = field(default_factory=dict)
    sure: dict[int, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What one look gave. `waits`: others have been asked to give back. `stirred`: others may go on now."""

    grants: list[dict[str, Any]]
    waits: bool
    stirred: bool


def open_epoch(session: Session, name: str, now: datetime) -> int:
    """A new process speaks for a gateway from now on."""
    row = session.get(LedgerGatewayRow, name, with_for_update=True)
    if row is None:
        row = LedgerGatewayRow(name=name, epoch=0, opened_at=now, seen_at=now)
        session.add(row)
    # Restored from a backup, the ledger must not give a number out again.
    row.epoch = max(row.epoch + 1, int(now.timestamp()))
    row.opened_at = row.seen_at = now
    session.flush()
    return row.epoch


def close_epochs(session: Session, name: str, epoch: int, now: datetime) -> None:
    """The records of processes before `epoch` are delivered: what they held besides is given back."""
    _check_epoch(session, name, epoch, now)
    _close(session, name, epoch)


def write_off(session: Session, caller: Caller, now: datetime, name: str) -> int:
    """An operator vouches that a gateway is gone: its slices are given back. Returns how many.

    Records that turn up later are settled all the same. Conflict while the gateway is heard of: it may still spend.
    """
    caller.require()
    row = session.get(LedgerGatewayRow, name, with_for_update=True)
    if row is None:
        raise NotFound(f"no gateway {name} holds anything; `finmaas allowance gateways` shows those that do")
    if now - row.seen_at < timedelta(seconds=WRITE_OFF_AFTER_S):
        ago = int((now - row.seen_at).total_seconds())
        raise Conflict(f"{name} was heard of {ago} s ago and may still spend; stop it, and try again in a minute")
    row.epoch = max(row.epoch + 1, int(now.timestamp()))
    closed = _close(session, name, row.epoch)
    bump_snapshot(session)
    record_audit(session, caller, now, "allowance.write_off", name, after={"slices": closed})
    return closed


def list_holders(session: Session, caller: Caller) -> list[tuple[LedgerGatewayRow, int]]:
    """Gateways, and how many slices each holds; for platform-admins."""
    caller.require()
    rows = session.scalars(select(LedgerGatewayRow).order_by(LedgerGatewayRow.name)).all()
    held = session.scalars(select(LedgerSliceRow).where(LedgerSliceRow.closed.is_(False))).all()
    return [(row, sum(s.gateway == row.name and _outstanding(s) > 0 for s in held)) for row in rows]


def find_recalls(session: Session, name: str, epoch: int) -> list[dict[str, int]]:
    """Slices of which the idle part is wanted back, and was not yet returned for it."""
    query = (
        select(LedgerSliceRow, LedgerWindowRow.round)
        .join(LedgerWindowRow, LedgerSliceRow.window_id == LedgerWindowRow.id)
        .where(
            LedgerSliceRow.gateway == name,
            LedgerSliceRow.epoch == epoch,
            LedgerSliceRow.closed.is_(False),
            LedgerSliceRow.round < LedgerWindowRow.round,
            LedgerSliceRow.granted - LedgerSliceRow.returned - LedgerSliceRow.settled > 0,
        )
    )
    return [{"slice": row.id, "round": number, "granted": row.granted} for row, number in session.execute(query)]


def take_step(
    session: Session,
    name: str,
    epoch: int,
    told: Sequence[Told],
    wants: Sequence[Want],
    asking: Asking,
    now: datetime,
    *,
    last: bool,
) -> Step:
    """One look at what a gateway asks: takes what it returns, hands out what is there, else calls back from others.

    `last`: whoever has not answered by now counts as gone.
    """
    _check_epoch(session, name, epoch, now)
    stirred = _apply_told(session, name, epoch, told)
    grants: list[dict[str, Any]] = []
    waits = False
    for want in sorted(wants, key=lambda one: (one.allowance_id, one.starts_at)):
        found = _find_window(session, want, now)
        if found is None:
            continue
        allowance, window = found
        grant, begun = _serve(session, allowance, window, name, epoch, want, asking, now, last=last)
        stirred |= begun
        waits |= grant is None
        if grant is not None:
            grants.append(grant)
    return Step(grants, waits, stirred)


def settle(session: Session, name: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Settles what new usage records charge; call it once for each record, in the transaction that stores it.

    What a line of a batch used again is gone from its slice, as it is at the gateway, and its window counts it not.
    """
    sums: dict[int, int] = {}
    free: dict[int, int] = {}
    epochs: dict[int, int] = {}
    for record in records:
        for number, amount in record["charges"]:
            sums[number] = sums.get(number, 0) + amount
            if record.get("finish") == REPEATED:
                free[number] = free.get(number, 0) + amount
            epochs[number] = record["epoch"]
    if not sums:
        return
    rows = session.scalars(select(LedgerSliceRow).where(LedgerSliceRow.id.in_(sums), LedgerSliceRow.gateway == name))
    slices = [row for row in rows if row.epoch == epochs[row.id]]
    windows = _lock_windows(session, {row.window_id for row in slices})
    for row in slices:
        session.refresh(row)
        window, amount = windows[row.window_id], sums[row.id]
        if not row.closed:
            window.outstanding -= min(amount, _outstanding(row))
        window.settled += amount - free.get(row.id, 0)
        row.settled += amount
    session.flush()


def _serve(
    session: Session,
    allowance: AllowanceRow,
    window: LedgerWindowRow,
    name: str,
    epoch: int,
    want: Want,
    asking: Asking,
    now: datetime,
    *,
    last: bool,
) -> tuple[dict[str, Any] | None, bool]:
    """The grant for one want, or None while others are asked; and whether a recall was begun."""
    mine = _find_slice(session, window, name, epoch)
    need = max(0, want.need - max(0, mine.granted - want.granted))
    pool = allowance.amount - window.settled - window.outstanding
    if need > pool:
        holders = _holders(session, window, mine)
        alive = [row for row, is_alive in holders if is_alive]
        pending = [row for row in alive if row.round < asking.rounds.get(window.id, 2**62)]
        if pending and not last:
            if window.id in asking.rounds:
                return None, False
            return None, _begin_round(window, mine, alive, asking)
        if alive and not last and not asking.sure.get(window.id, False):
            return None, _begin_round(window, mine, alive, asking)
        away = sorted({row.gateway for row, is_alive in holders if not is_alive} | {row.gateway for row in pending})
        given = pool if pool >= want.least else 0
        _hand(window, mine, max(0, min(given, need)), tight=True)
        still = not away and not any(row.reserved for row in alive) and _is_settled_in(allowance, now)
        return _show(allowance, window, mine, 0, away=away, final=True, still=still), False
    hand = decide_hand(pool, need, _count_alive(session, now))
    if need or not (want.need or hand.tight):  # not for an answer that was lost: what it granted is enough
        _hand(window, mine, hand.grant, tight=hand.tight)
    return _show(allowance, window, mine, hand.low), False


def _begin_round(
    window: LedgerWindowRow, mine: LedgerSliceRow, alive: Sequence[LedgerSliceRow], asking: Asking
) -> bool:
    """Calls back. The answer is sure if all were tight before: then nobody can have reserved on his own meanwhile."""
    asking.sure[window.id] = all(row.tight for row in alive)
    window.round += 1
    mine.round = asking.rounds[window.id] = window.round
    return True


def _hand(window: LedgerWindowRow, mine: LedgerSliceRow, amount: int, *, tight: bool) -> None:
    mine.granted += amount
    mine.reserved += amount  # until its holder says otherwise
    mine.tight = tight
    window.outstanding += amount


def _show(
    allowance: AllowanceRow,
    window: LedgerWindowRow,
    mine: LedgerSliceRow,
    low: int,
    *,
    away: Sequence[str] = (),
    final: bool = False,
    still: bool = False,
) -> dict[str, Any]:
    return {
        "allowance_id": allowance.id,
        "starts_at": window.starts_at,
        "slice": mine.id,
        "granted": mine.granted,
        "tight": mine.tight,
        "low": low,
        "pool": max(0, allowance.amount - window.settled - window.outstanding),
        "settled": window.settled,
        "outstanding": window.outstanding,
        "final": final,
        "still": still,
        "away": list(away),
    }


def _is_settled_in(allowance: AllowanceRow, now: datetime) -> bool:
    """Right after a minute has begun, holders keep what another clock may still count to the one before."""
    kind = WindowKind(allowance.window_kind)
    return kind is not WindowKind.NOW and not (kind is WindowKind.MINUTE and now.timestamp() % 60 < _SKEW_S)


def _holders(session: Session, window: LedgerWindowRow, mine: LedgerSliceRow) -> list[tuple[LedgerSliceRow, bool]]:
    """Others that hold something of a window, and whether each can be asked to give back."""
    rows = session.scalars(
        select(LedgerSliceRow)
        .where(LedgerSliceRow.window_id == window.id, LedgerSliceRow.closed.is_(False), LedgerSliceRow.id != mine.id)
        .execution_options(populate_existing=True)
    ).all()
    held = [row for row in rows if _outstanding(row) > 0]
    gateways = {
        row.name: row
        for row in session.scalars(
            select(LedgerGatewayRow).where(LedgerGatewayRow.name.in_({one.gateway for one in held}))
        )
    }
    latest = max((row.seen_at for row in gateways.values()), default=None)
    mine_seen = session.get_one(LedgerGatewayRow, mine.gateway).seen_at
    moment = max(latest, mine_seen) if latest else mine_seen
    return [(row, _is_alive(row, gateways.get(row.gateway), moment)) for row in held]


def _is_alive(row: LedgerSliceRow, gateway: LedgerGatewayRow | None, now: datetime) -> bool:
    if gateway is None or gateway.epoch != row.epoch:
        return False
    return now - gateway.seen_at < timedelta(seconds=ALIVE_S)


def _count_alive(session: Session, now: datetime) -> int:
    since = now - timedelta(seconds=ALIVE_S)
    return len(session.scalars(select(LedgerGatewayRow.name).where(LedgerGatewayRow.seen_at > since)).all())


def _find_window(session: Session, want: Want, now: datetime) -> tuple[AllowanceRow, LedgerWindowRow] | None:
    """The allowance and its window, locked; None when the allowance is gone."""
    allowance = session.get(AllowanceRow, want.allowance_id)  # unscoped: gateways ask for all tenants
    if allowance is None:
        return None
    kind = WindowKind(allowance.window_kind)
    starts_at, ends_at = want.starts_at, 0
    if not kind.is_standing:
        tenant = session.get_one(TenantRow, allowance.tenant_id)  # unscoped: as above
        starts_at, ends_at = find_window(kind, want.starts_at, tenant.time_zone, tenant.fiscal_day)
        if starts_at > now.timestamp() + _CLOCKS_AGREE_S:
            raise Conflict(f"the window from {starts_at} has not begun; the gateway's clock is ahead")
    query = select(LedgerWindowRow).where(
        LedgerWindowRow.allowance_id == allowance.id, LedgerWindowRow.starts_at == starts_at
    )
    locked = query.with_for_update().execution_options(populate_existing=True)
    window = session.scalar(locked)
    if window is None:
        # The allowance's row stands for the window that is not there yet: two gateways make one.
        session.refresh(allowance, with_for_update=True)
        window = session.scalar(locked)
        if window is None:
            window = LedgerWindowRow(
                allowance_id=allowance.id, starts_at=starts_at, ends_at=ends_at, settled=0, outstanding=0, round=0
            )
            session.add(window)
            session.flush()
    session.refresh(allowance)
    return allowance, window


def _find_slice(session: Session, window: LedgerWindowRow, name: str, epoch: int) -> LedgerSliceRow:
    row = session.scalar(
        select(LedgerSliceRow)
        .where(LedgerSliceRow.window_id == window.id, LedgerSliceRow.gateway == name, LedgerSliceRow.epoch == epoch)
        .execution_options(populate_existing=True)
    )
    if row is None:
        row = LedgerSliceRow(
            window_id=window.id, gateway=name, epoch=epoch, granted=0, returned=0, settled=0, reserved=0,
            round=window.round, tight=False, closed=False,
        )  # fmt: skip
        session.add(row)
        session.flush()
    return row


def _apply_told(session: Session, name: str, epoch: int, told: Sequence[Told]) -> bool:
    """Takes returns and answers to recalls; True when somebody may have waited for them."""
    if not told:
        return False
    by_id = {one.slice: one for one in told}
    query = select(LedgerSliceRow).where(
        LedgerSliceRow.id.in_(by_id), LedgerSliceRow.gateway == name, LedgerSliceRow.epoch == epoch
    )
    rows = session.scalars(query).all()
    windows = _lock_windows(session, {row.window_id for row in rows})
    stirred = False
    for row in rows:
        session.refresh(row)
        if row.closed:
            continue
        one = by_id[row.id]
        is_newer = one.returned > row.returned or one.round > row.round
        more = min(max(0, one.returned - row.returned), _outstanding(row))
        stirred |= more > 0 or one.round > row.round
        row.returned += more
        windows[row.window_id].outstanding -= more
        row.tight = row.tight or one.round > row.round
        row.round = max(row.round, one.round)
        reserved = one.reserved + max(0, row.granted - one.granted)  # it may not know yet what it was handed
        # Messages overtake each other: near the end an old one must not hide what a newer one told.
        row.reserved = max(row.reserved, reserved) if row.tight and not is_newer else reserved
    session.flush()
    return stirred


def _lock_windows(session: Session, numbers: set[int]) -> dict[int, LedgerWindowRow]:
    query = select(LedgerWindowRow).where(LedgerWindowRow.id.in_(numbers)).order_by(LedgerWindowRow.id)
    rows = session.scalars(query.with_for_update().execution_options(populate_existing=True))
    return {row.id: row for row in rows}


def _close(session: Session, name: str, before: int) -> int:
    """Gives back what processes of a gateway before an epoch still hold."""
    query = select(LedgerSliceRow).where(
        LedgerSliceRow.gateway == name, LedgerSliceRow.epoch < before, LedgerSliceRow.closed.is_(False)
    )
    rows = session.scalars(query).all()
    windows = _lock_windows(session, {row.window_id for row in rows})
    for row in rows:
        session.refresh(row)
        windows[row.window_id].outstanding -= max(0, _outstanding(row))
        row.closed, row.reserved = True, 0
    session.flush()
    return len(rows)


def _check_epoch(session: Session, name: str, epoch: int, now: datetime) -> None:
    """Conflict when another process speaks for the gateway, or none that the ledger knows."""
    row = session.get(LedgerGatewayRow, name, with_for_update=True, populate_existing=True)
    if row is None or row.epoch != epoch:
        raise Conflict(f"epoch {epoch} of gateway {name} is over; begin a new one")
    if abs(now - row.seen_at) > timedelta(seconds=1):
        session.execute(update(LedgerGatewayRow).where(LedgerGatewayRow.name == name).values(seen_at=now))


def _outstanding(row: LedgerSliceRow) -> int:
    return row.granted - row.returned - row.settled
