"""People at the gateway: tokens of the bank's identity provider, taken beside API keys.

The control plane hands on the provider's keys, and the snapshot says which subjects are whom; both lie on disk too, so
people are let in while the control plane and the provider are away. A request with an API key touches none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from finmaas_core.errors import Corrupt, InvalidInput, NotAllowed, NotAuthenticated, NotFound, Unavailable
from finmaas_core.identity import Identity, read_identity, read_keys
from finmaas_serving.gateway.snapshot import Key, Person, Project, Snapshot, SnapshotFile

if TYPE_CHECKING:
    import httpx

    from finmaas_serving.gateway.context import Gateway

CALLERS = frozenset(("platform-admin", "tenant-admin", "ml-engineer", "app-developer"))
"""The roles that call models as themselves."""
METHODS = ("chat.completions", "completions", "embeddings", "messages", "models", "rerank", "responses", "score")
"""What people may ask for: all but files and batches, which outlive a login."""
RECHECK_S = 60.0
"""How long a token counts as checked; a signing key that the provider took back ends with it."""
MAX_CHECKED = 4096
FRESH_S = 30.0
LOOK_S = 1.0
SURE_S = 12.0
"""A key is none when the control plane, asked so long after it was first named, does not have it. It asks the provider
at most once in ten seconds, so what it says before that may be what it knew before the key was made."""
MAX_MISSED = 1024
ABSENT = 404


class Provider(msgspec.Struct, frozen=True):
    """The identity provider as the control plane knows it: its name, its client, whom tokens may address, its keys."""

    issuer: str = ""
    client_id: str = ""
    audiences: tuple[str, ...] = ()
    jwks: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Provider).decode
NOBODY = Provider()


class People:
    """Who the bearer of a token is, and in which project it acts."""

    def __init__(self, file: SnapshotFile | None = None) -> None:
        self.provider = NOBODY
        self.missing = ""  # a key that a token named and that is not held
        self._file = file
        self._keys: dict[str, Any] = {}
        self._missed: dict[str, float] = {}  # keys that tokens named and that are not held, and since when
        self._asked_at = float("-inf")  # when the question was sent that was last answered: there is no such key
        self._looked_at = -LOOK_S
        self._wanted = asyncio.Event()
        self._checked: dict[bytes, Key] = {}
        self._snapshot: Snapshot | None = None

    def load_from_disk(self) -> None:
        """Takes the copy on disk, if there is one. Raises Corrupt."""
        if self._file is not None and (held := self._file.load()) is not None:
            self._read(held[0])

    def take(self, raw: bytes, asked: str = "", asked_at: float | None = None) -> None:
        """Takes what the control plane says of the provider, and of the key it was `asked` for. Raises Corrupt."""
        self._read(raw)
        if asked and asked not in self._keys:
            self._asked_at = time.monotonic() if asked_at is None else asked_at
        if self.missing == asked:  # another may have been named meanwhile
            self.missing = ""
        if self._file is not None:
            self._file.save_if_changed(raw)

    async def wait(self) -> None:
        """Until it is time to ask for the keys again, or a token names one that is not held."""
        self._looked_at = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), FRESH_S)
        self._wanted.clear()
        await asyncio.sleep(max(0.0, self._looked_at + LOOK_S - time.monotonic()))  # anybody can name a key

    def find_key(self, snapshot: Snapshot, token: bytes, project: bytes, now: float) -> Key:
        """What a person may do in a project (empty: the only one of the tenant), as a key that lasts a minute.

        NotAuthenticated, NotAllowed, NotFound, InvalidInput; Unavailable while a new signing key is asked for.
        """
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._checked.clear()
        name = hashlib.sha256(b"%b %b" % (project, token)).digest()
        found = self._checked.get(name)
        if found is not None and (found.expires_at or 0.0) > now:
            return found
        identity = self._verify(token, now)
        found = _as_key(snapshot, identity, project, now)
        if len(self._checked) >= MAX_CHECKED:
            self._checked.clear()
        self._checked[name] = found
        return found

    def _verify(self, token: bytes, now: float) -> Identity:
        provider = self.provider
        if not provider.issuer:
            raise NotAuthenticated("logins of an identity provider are not taken here; send an API key (`fmk_…`)")
        text = token.decode("latin-1")
        return read_identity(text, self._signing_key, provider.issuer, provider.client_id, provider.audiences, now)

    def _signing_key(self, kid: str) -> Any:
        key = self._keys.get(kid)
        if key is None and self._may_be_new(kid[:200]):
            raise Unavailable("the provider's new signing key is being asked for; try again", retry_after_s=1)
        return key

    def _may_be_new(self, kid: str) -> bool:
        """Asks for a key that is not held; whether it may be there all the same.

        One that is known to be none is asked for too, now and then: the provider may have been away.
        """
        now = time.monotonic()
        if kid not in self._missed and len(self._missed) >= MAX_MISSED:
            del self._missed[next(iter(self._missed))]
        may_be_new = self._asked_at < self._missed.setdefault(kid, now) + SURE_S
        if may_be_new or now >= self._asked_at + SURE_S:
            self.missing = kid
            self._wanted.set()
        return may_be_new

    def _read(self, raw: bytes) -> None:
        import jwt

        try:
            provider = _decode(raw)
            keys = read_keys(provider.jwks) if provider.jwks else {}
        except (msgspec.DecodeError, jwt.PyJWTError) as error:
            raise Corrupt(f"the identity provider's keys cannot be read: {error}") from None
        if provider != self.provider:
            self.provider, self._keys = provider, keys
            self._checked.clear()
            for kid in keys:
                self._missed.pop(kid, None)


def _as_key(snapshot: Snapshot, identity: Identity, project: bytes, now: float) -> Key:
    person = snapshot.people.get((identity.issuer, identity.subject))
    if person is None:
        raise NotAuthenticated(
            f"{identity.name[:200]} of {identity.issuer} is no principal here; an admin links one: "
            f"finmaas principal link <name> --subject {identity.subject[:200]}"
        )
    if person.disabled:
        raise NotAuthenticated(f"the principal {person.name} is disabled or its tenant frozen; ask an admin")
    if person.role not in CALLERS:
        raise NotAllowed(
            f"{person.name} holds the role {person.role}, which calls no models; ask a tenant-admin for app-developer"
        )
    chosen = _choose_project(snapshot, person, project.decode("latin-1").strip())
    return Key(
        "",
        person.principal_id,
        chosen.project_id,
        chosen.ref,
        chosen.tenant_id,
        person.name,
        methods=METHODS,
        expires_at=min(identity.until, now + RECHECK_S),
    )


def _choose_project(snapshot: Snapshot, person: Person, wanted: str) -> Project:
    """By `tenant/project`, by its short name within the own tenant, or the only one there is."""
    mine = [one for one in snapshot.projects if person.tenant_id in (None, one.tenant_id)]
    if not wanted:
        if person.tenant_id is not None and len(mine) == 1:
            return mine[0]
        raise InvalidInput(
            "say which project you act for: the header `OpenAI-Project: tenant/project` (`project=` of OpenAI's client)"
        )
    for one in mine:
        if wanted == one.ref or (person.tenant_id is not None and wanted == one.ref.rpartition("/")[2]):
            return one
    raise NotFound(f"there is no project {wanted[:200]} that {person.name} may act for; `finmaas project list`")


async def fetch_provider(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """Asks the control plane for the provider's keys, where the snapshot knows people at all."""
    people = gateway.people
    if not gateway.snapshots.current.people:
        await asyncio.sleep(LOOK_S)
        return
    asked, asked_at = people.missing, time.monotonic()
    answer = await api.get("/api/v1/gateway/identity-provider", params={"missing": asked} if asked else {})
    if answer.status_code == ABSENT:  # none is configured (any more)
        people.take(b"{}")
    else:
        answer.raise_for_status()
        people.take(answer.content, asked, asked_at)
    await people.wait()
