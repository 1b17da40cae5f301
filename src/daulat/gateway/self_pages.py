"""The few pages that a person sees with a browser: where to sign in, what is known of them, their keys. No script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jinja2

_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ccc;"
    "vertical-align:top}code{overflow-wrap:anywhere}label{display:block;margin:.5rem 0}input{font:inherit}"
    ".secret{padding:.8rem;background:#eef6ee}.refused{padding:.8rem;background:#fbeeee}"
)
_TEXT: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{ title }}</title><style>{{ style|safe }}</style></head><body><main><h1>{{ title }}</h1>
{% if refused %}<p class="refused" role="alert">{{ refused }}</p>
<p><a href="/signin">Sign in</a></p>{% endif %}
{% if providers %}<p>This service asks one of these who you are.</p><ul>
{% for name, label in providers %}<li><a href="/signin/{{ name }}{{ query }}">{{ label }}</a></li>{% endfor %}
</ul>{% endif %}
{% if said %}<p>{{ said }}</p>{% endif %}
{% if me %}{% if secret %}<div class="secret" role="status"><p>Your new key. It is shown this once:</p>
<p><code>{{ secret }}</code></p></div>{% endif %}
<h2>What is known of you</h2><table>
<tr><th scope="row">Tenant</th><td>{{ me.person.tenant }}</td></tr>
<tr><th scope="row">Citizenship</th><td>{{ me.person.citizenship or "not known" }}{% if me.person.citizenship %}, level
{{ me.person.assurance }}, by {{ me.person.issuer }}{% if me.person.until %}, until {{ me.person.until|day }}{% endif %}
{% endif %}</td></tr>
<tr><th scope="row">Roles</th><td>{{ me.person.roles|join(", ") or "none" }}</td></tr>
<tr><th scope="row">This session</th><td>by {{ me.session.issuer }}, until {{ me.session.expires|time }}</td></tr>
</table>
<h2>Your API keys</h2>
{% if me["keys"] %}<table>
<tr><th>Name</th><th>Models</th><th>Requests a minute</th><th>Networks</th><th>Opens your files</th>
<th>Until</th><th></th></tr>
{% for key in me["keys"] %}<tr><td>{{ key.label }}</td><td>{{ key.models|join(", ") or "all" }}</td>
<td>{{ key.requests_per_minute or "any" }}</td><td>{{ key.networks|join(", ") or "any" }}</td>
<td>{{ "yes" if key.own else "no: another made it" }}</td><td>{{ key.expires|day }}</td>
<td><form method="post" action="/me/keys/{{ key.id }}/revoke"><button>Revoke</button></form></td></tr>{% endfor %}
</table>
{% else %}<p>None.</p>{% endif %}
{% if me.eligible %}<h2>A new key</h2><form method="post" action="/me/keys">
<label>Name <input name="label" required maxlength="100" value="key"></label>
<label>Days <input name="days" type="number" min="1" max="365" value="30" required></label>
<label>Requests a minute, 0 for any <input name="requests_per_minute" type="number" min="0" value="0" required></label>
<label>Models, commas between, empty for all <input name="models"></label>
<label>Networks such as 192.0.2.0/24, commas between, empty for any <input name="networks"></label>
<button>Make it</button></form>{% else %}<p class="refused">You can make no key. {{ me.why_not }}</p>{% endif %}
<form method="post" action="/signin/out"><p><button>Sign out</button></p></form>{% endif %}
</main></body></html>
"""


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


_environment: Final = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
_environment.filters.update(day=_day, time=_time)
_page: Final = _environment.from_string(_TEXT)
_NOTHING: Final[Mapping[str, Any]] = {
    "refused": "",
    "providers": (),
    "query": "",
    "said": "",
    "me": None,
    "secret": "",
    "style": _STYLE,
}


def page(title: str, **shown: Any) -> str:
    """One page, with any of: refused, said, providers and query, me and secret."""
    return _page.render({**_NOTHING, "title": title, **shown})


def headers(issuers: Iterable[str]) -> dict[str, str]:
    """What keeps such a page to itself (Content Security Policy Level 3); signing out may lead to an issuer."""
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    origins = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(issuer)) for issuer in issuers})
    return {
        "content-security-policy": (
            f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self' {' '.join(origins)}; base-uri 'none'; "
            "frame-ancestors 'none'"
        ),
        "referrer-policy": "same-origin",  # `no-referrer` would make the Origin of a form `null`
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
