"""Every address of the admin API, once: routes, authorization and OpenAPI are all made of this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from daulat.gateway.admin import oversight as o
from daulat.gateway.admin import serving as s
from daulat.gateway.admin import types as t

ROOT: Final = "/admin/v1"
DOCUMENT: Final = f"{ROOT}/openapi.json"
MOST_BYTES: Final = 65_536  # of a request's body
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
OPERATORS: Final = frozenset({"operator"})
BOTH: Final = frozenset({"operator", "tenant-admin"})  # of these, a tenant's own see and change their tenant only


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. `says`: what it is for; `versioned`: it has an ETag, and its changes need If-Match."""

    id: str
    method: Method
    path: str
    says: str
    answer: Any
    roles: frozenset[str] = OPERATORS
    body: Any = None
    query: Any = None
    status: int = 200
    versioned: bool = False

    @property
    def creates(self) -> bool:
        """Whether an Idempotency-Key makes it happen once."""
        return self.status == 201  # noqa: PLR2004

    @property
    def changes(self) -> bool:
        """Whether it is an administrative act: a draft is none, and neither is a projection that is made again."""
        return self.method != "GET" and not self.id.endswith((".draft", ".rebuild"))


def _op(id_: str, method: Method, path: str, says: str, answer: Any, **more: Any) -> Operation:
    return Operation(id_, method, f"{ROOT}/{path}", says, answer, **more)


_PAGED: Final = {"query": t.Paging}
_MADE: Final = {"status": 201}
OPERATIONS: Final[tuple[Operation, ...]] = (
    _op("me", "GET", "me", "Say whose credential this is.", t.Me, roles=BOTH),
    _op("tenants.list", "GET", "tenants", "List tenants.", t.Page[t.Tenant], roles=BOTH, **_PAGED),
    _op("tenants.create", "POST", "tenants", "Add a tenant.", t.Tenant, body=t.NewTenant, **_MADE),
    _op("tenants.get", "GET", "tenants/{tenant}", "Show a tenant.", t.Tenant, roles=BOTH),
    _op("people.list", "GET", "people", "List people.", t.Page[t.Person], roles=BOTH, query=t.OfTenant),
    _op(
        "people.create", "POST", "people", "Add a person.", t.Person, roles=BOTH, body=t.NewPerson, versioned=True,
        **_MADE,
    ),
    _op("people.get", "GET", "people/{person}", "Show a person.", t.Person, roles=BOTH, versioned=True),
    _op(
        "people.change", "PATCH", "people/{person}", "Change what is vouched for a person.", t.Person,
        body=t.PersonChange, versioned=True,
    ),
    _op(
        "people.end", "DELETE", "people/{person}", "End a person's eligibility; their keys are revoked.", t.Person,
        roles=BOTH,
    ),
    _op(
        "people.correct", "POST", "people/{person}/corrections", "Put right what is held about a person.", o.Corrected,
        body=o.Correction, **_MADE,
    ),
    _op(
        "people.invite", "POST", "people/{person}/invitations", "Let a person sign in for the first time.",
        o.Invitation, body=o.NewInvitation, **_MADE,
    ),
    _op(
        "people.sign_out", "DELETE", "people/{person}/sessions", "End all sessions of a person.", o.SessionsEnded,
        roles=BOTH,
    ),
    _op(
        "identities.list", "GET", "identities", "List who has proven who they are.", t.Page[o.Identity], roles=BOTH,
        query=t.OfPerson,
    ),
    _op("sessions.list", "GET", "sessions", "List sessions.", t.Page[o.Session], roles=BOTH, query=t.OfPerson),
    _op("sessions.revoke", "DELETE", "sessions/{session}", "End a session.", o.SessionsEnded, roles=BOTH),
    _op("keys.list", "GET", "keys", "List API keys.", t.Page[t.Key], roles=BOTH, query=t.OfPerson),
    _op("keys.create", "POST", "keys", "Make an API key.", t.MadeKey, roles=BOTH, body=t.NewKey, **_MADE),
    _op("keys.get", "GET", "keys/{key}", "Show an API key.", t.Key, roles=BOTH),
    _op("keys.revoke", "DELETE", "keys/{key}", "Revoke an API key, for good.", t.Key, roles=BOTH),
    _op(
        "admin_keys.list", "GET", "admin-keys", "List credentials for this API.", t.Page[t.AdminKey], roles=BOTH,
        query=t.OfPerson,
    ),
    _op(
        "admin_keys.create", "POST", "admin-keys", "Make a credential for this API.", t.MadeAdminKey, roles=BOTH,
        body=t.NewAdminKey, **_MADE,
    ),
    _op(
        "admin_keys.revoke", "DELETE", "admin-keys/{admin_key}", "Revoke a credential for this API.", t.AdminKey,
        roles=BOTH,
    ),
    _op(
        "directories.list", "GET", "directories", "List tenants' own directories.", t.Page[t.Directory], roles=BOTH,
        query=t.OfTenant,
    ),
    _op(
        "directories.create", "POST", "directories", "Let a tenant's own directory say who is there.", t.MadeDirectory,
        roles=BOTH, body=t.NewDirectory, **_MADE,
    ),
    _op(
        "directories.revoke", "DELETE", "directories/{directory}", "Revoke a directory's token.", t.Directory,
        roles=BOTH,
    ),
    _op("auditors.list", "GET", "auditors", "List auditors.", t.Page[t.Auditor], **_PAGED),
    _op("auditors.create", "POST", "auditors", "Make an auditor's token.", t.MadeAuditor, body=t.NewAuditor, **_MADE),
    _op("auditors.revoke", "DELETE", "auditors/{auditor}", "Revoke an auditor's token.", t.Auditor),
    _op("limits.list", "GET", "limits", "List limits.", t.Page[s.Limit], **_PAGED),
    _op("limits.put", "PUT", "limits/{scope}/{name}", "Limit a key, a tenant or a model.", s.Limit, body=t.Bounds),
    _op("limits.remove", "DELETE", "limits/{scope}/{name}", "Limit it no longer.", s.Removed),
    _op("usage", "GET", "usage", "Say who has used how much, and what it costs.", s.Uses, roles=BOTH, query=s.By),
    _op("usage.focus", "GET", "usage/focus", "Give use and costs as a FOCUS dataset.", s.Focus, query=s.Between),
    _op("usage.rebuild", "POST", "usage/rebuild", "Count the whole log again.", s.Rebuilt),
    _op("prices", "GET", "prices", "Show the price table.", s.PriceTable),
    _op("vault.status", "GET", "vault", "Say whether files and completions can be kept.", o.VaultStatus),
    _op(
        "vault.rotate", "POST", "vault/rotations", "Make a new key for an old one.", o.Rotated, body=o.Rotation,
        **_MADE,
    ),
    _op("retention.list", "GET", "retention", "List how long objects are kept.", t.Page[o.Retention], **_PAGED),
    _op("breaches.list", "GET", "breaches", "List breaches and their deadlines.", t.Page[o.Breach], **_PAGED),
    _op("breaches.open", "POST", "breaches", "Begin the clocks of a breach.", o.Breach, body=o.NewBreach, **_MADE),
    _op("breaches.get", "GET", "breaches/{breach}", "Show a breach.", o.Breach),
    _op("breaches.notice", "GET", "breaches/{breach}/notice", "Assemble its notice from the log.", o.Notice),
    _op(
        "breaches.notified", "POST", "breaches/{breach}/told", "Note that somebody was told of it.", o.Notified,
        body=o.Told, **_MADE,
    ),
    _op("breaches.close", "POST", "breaches/{breach}/close", "Close a breach.", o.Closed),
    _op("ceremony", "GET", "ceremony", "Show what the key ceremony established.", o.Ceremony),
    _op("status", "GET", "status", "Say what runs, under which lease, and where the log stands.", s.Status),
    _op("deployments.list", "GET", "deployments", "List deployments.", t.Page[s.Deployment], **_PAGED),
    _op("deployments.get", "GET", "deployments/{name}", "Show a deployment.", s.Deployment, versioned=True),
    _op(
        "deployments.put", "PUT", "deployments/{name}", "Have a model served under that name, or change how it is.",
        s.Deployment, body=s.Wish, versioned=True,
    ),
    _op("deployments.stop", "DELETE", "deployments/{name}", "Stop serving a deployment.", s.Stopped),
    _op("replicas.list", "GET", "replicas", "List replicas.", t.Page[s.Replica], **_PAGED),
    _op("replicas.drain", "POST", "replicas/{replica}/drain", "Have a replica replaced.", s.Draining),
    _op("replicas.log", "GET", "replicas/{replica}/log", "Show the end of its log.", s.ReplicaLog, query=t.Lines),
    _op("operators.list", "GET", "operators", "List operators and their keys.", t.Page[t.Operator], **_PAGED),
    _op(
        "proposals.draft", "POST", "proposals/draft", "Say what a proposal would be, to be signed by you.", t.Drafted,
        body=t.Draft,
    ),
    _op("proposals.list", "GET", "proposals", "List proposals.", t.Page[t.Listed], **_PAGED),
    _op(
        "proposals.create", "POST", "proposals", "Propose what you have drafted and signed.", t.Proposal, body=t.Signed,
        **_MADE,
    ),
    _op("proposals.get", "GET", "proposals/{proposal}", "Show a proposal.", t.Proposal),
    _op(
        "proposals.approve", "POST", "proposals/{proposal}/approvals", "Approve another operator's proposal.",
        t.Proposal, body=t.Approval, **_MADE,
    ),
    _op(
        "glass.draft", "POST", "broken-glass/draft", "Say what breaking glass would be.", t.GlassDrafted,
        body=t.GlassDraft,
    ),
    _op("glass.list", "GET", "broken-glass", "List what was done so.", t.Page[t.GlassListed], **_PAGED),
    _op("glass.break", "POST", "broken-glass", "Break glass, signed.", t.Glass, body=t.GlassSigned, **_MADE),
    _op("glass.get", "GET", "broken-glass/{proposal}", "Show what was done so.", t.Glass),
    _op(
        "glass.review", "POST", "broken-glass/{proposal}/reviews", "Review what another operator did so.", t.Glass,
        body=t.GlassReview, **_MADE,
    ),
)  # fmt: skip
BY_ID: Final[Mapping[str, Operation]] = {operation.id: operation for operation in OPERATIONS}
