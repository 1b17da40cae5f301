"""Every address has its row of who is kept out."""

from __future__ import annotations

from pathlib import Path

from tests.redteam.table import GATEWAY, PAGES, SIGNIN, VAULT, named_by_the_gateway, served

from daulat.gateway.admin.table import OPERATIONS
from daulat.processes.keeping import Asked
from daulat.processes.pages import application
from daulat.processes.signin import SignInPages
from daulat.processes.vault import Vault
from daulat.processes.watch import Watch
from daulat.settings import Home, Settings

ROOT = Path(__file__).parents[2]


def test_no_route_is_without_a_row_and_no_row_without_a_route(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert served(application(home, Watch())) == set(PAGES)
    assert served(Vault(home, Asked.of(Settings())).application()) == set(VAULT)
    signin = SignInPages.__new__(SignInPages)  # its routes need no provider
    assert served(signin.application()) == set(SIGNIN)
    assert named_by_the_gateway() == set(GATEWAY)


def test_the_rows_and_the_code_agree_on_who_may() -> None:
    for operation in OPERATIONS:
        assert PAGES[f"{operation.method} {operation.path}"].may == operation.roles, operation.id


def test_whoever_has_others_try_is_there() -> None:
    for row in (*GATEWAY.values(), *PAGES.values(), *VAULT.values(), *SIGNIN.values()):
        assert not row.where or (ROOT / row.where).exists()
