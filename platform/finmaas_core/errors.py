"""The errors a user can meet, as one tree. No HTTP here: two tables elsewhere map codes to statuses.

FinmaasError
├── InvalidInput            bad_input          something the caller sent cannot be used
│   ├── BadRow              bad_row            a row of an imported file, named by file and line
│   ├── InvalidSpec         invalid_spec       a job or endpoint spec that cannot work
│   ├── PromptTooLong       prompt_too_long    more tokens than the endpoint's context holds
│   └── BlockedByPolicy     blocked_by_policy  a guardrail of the project refuses what was sent
├── NotAuthenticated        not_authenticated  no credential, or one that is wrong, revoked or expired
├── NotAllowed              not_allowed        a known principal that may not do this
├── NotFound                not_found          no such object in the caller's sight
├── Conflict                conflict           the object's state forbids the change
│   ├── AlreadyExists       already_exists     the name is taken
│   ├── VersionMismatch     version_mismatch   If-Match names an older version
│   └── StaleAttempt        stale_attempt      a fenced attempt tried to write
├── LimitReached            limit_reached      a quota or allowance is used up
├── Corrupt                 corrupt            bytes do not match their digest
│   └── BadSignature        bad_signature      a version bears no signature that holds
├── Unavailable             unavailable        a part that is needed does not answer
│   ├── StoreFull           store_full         no room left in the blob store or database
│   └── WrongSchema         wrong_schema       the database was made by another release
└── EnvironmentFault        environment        this machine lacks something: port, compiler, memory, disk
"""

from __future__ import annotations

from typing import Any, ClassVar


class FinmaasError(Exception):
    """Base of every error that a user may see; the message says what, which, and what to do."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidInput(FinmaasError):
    """Something the caller sent cannot be used."""

    code = "bad_input"


class BadRow(InvalidInput):
    """A row of an imported file cannot be read; details hold `file`, `line` and `column`."""

    code = "bad_row"


class InvalidSpec(InvalidInput):
    """A job or endpoint spec asks for a combination that cannot work."""

    code = "invalid_spec"


class PromptTooLong(InvalidInput):
    """The prompt and the asked-for answer exceed the context of the endpoint."""

    code = "prompt_too_long"


class BlockedByPolicy(InvalidInput):
    """A guardrail of the project refuses what was sent; details hold `param` and `rule`."""

    code = "blocked_by_policy"


class NotAuthenticated(FinmaasError):
    """No credential was given, or it is wrong, revoked or expired."""

    code = "not_authenticated"


class NotAllowed(FinmaasError):
    """The principal is known but its role does not permit this."""

    code = "not_allowed"


class NotFound(FinmaasError):
    """No such object exists in the caller's sight."""

    code = "not_found"


class Conflict(FinmaasError):
    """The object's present state forbids the change."""

    code = "conflict"


class AlreadyExists(Conflict):
    """The name is taken."""

    code = "already_exists"


class VersionMismatch(Conflict):
    """`If-Match` names a version that is no longer the current one."""

    code = "version_mismatch"


class StaleAttempt(Conflict):
    """An attempt that has been replaced tried to write."""

    code = "stale_attempt"


class LimitReached(FinmaasError):
    """A quota or allowance is used up."""

    code = "limit_reached"


class Corrupt(FinmaasError):
    """Bytes do not match the digest they are named by."""

    code = "corrupt"


class BadSignature(Corrupt):
    """A version bears no signature, or none that holds for these files under this name."""

    code = "bad_signature"


class Unavailable(FinmaasError):
    """A part that is needed does not answer."""

    code = "unavailable"


class StoreFull(Unavailable):
    """The blob store or the database has no room left."""

    code = "store_full"


class WrongSchema(Unavailable):
    """The database was made by another release of finmaas."""

    code = "wrong_schema"


class EnvironmentFault(FinmaasError):
    """This machine lacks something that is needed: a port, a compiler, memory, disk."""

    code = "environment"


def all_error_classes() -> list[type[FinmaasError]]:
    """Every class of the tree, the root included: tests check that both HTTP tables are complete."""
    found: list[type[FinmaasError]] = [FinmaasError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found
