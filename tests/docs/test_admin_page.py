"""The admin API's reference page is what the code says."""

from __future__ import annotations

from tests.support import admin_page


def test_the_reference_stands_as_the_code_has_it() -> None:
    assert admin_page.PAGE.read_text() == admin_page.page(), "write it anew: python -m tests.support.admin_page"
