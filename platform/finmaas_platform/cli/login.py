"""`finmaas login` and `logout`: with the bank's identity provider, in place of an access token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_core.errors import NotAuthenticated
from finmaas_platform.cli.options import ADMINISTRATION, JsonOption
from finmaas_platform.cli.terminal import print_json, say

if TYPE_CHECKING:
    from finmaas_platform.sdk.login import DeviceCode


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.command("login", rich_help_panel=ADMINISTRATION)(login)
    root.command("logout", rich_help_panel=ADMINISTRATION)(logout)


def login(
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="The identity provider (default: the platform's).", show_default=False),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option("--client-id", help="What the CLI is called there.", show_default=False)
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--device", help="Open a browser here, or show a code to type anywhere.")
    ] = False,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="Print the token of the login here, renewed, for clients of models.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Log in with the bank's identity provider. Approvals ask who you are, not whose token you hold.

    Example: finmaas login --browser
    """
    from finmaas_core.home import find_home
    from finmaas_platform.sdk import login as flows
    from finmaas_platform.sdk.connection import find_urls

    home = find_home()
    url = find_urls()[0]
    if show_token:
        token = flows.find_token(home, url)
        if token is None:
            raise NotAuthenticated(f"you are not logged in at {url}; run `finmaas login` first")
        print_json({"token": token}) if as_json else typer.echo(token)
        return
    if issuer is None or client_id is None:
        told_issuer, told_client = flows.fetch_settings(url)
        issuer, client_id = issuer or told_issuer, client_id or told_client
    if browser:
        found = flows.login_by_browser(issuer, client_id, _open_here)
    else:
        found = flows.login_by_device(issuer, client_id, _show_code)
    flows.store_login(home, url, found)
    if as_json:
        print_json({"url": url, "issuer": issuer, "expires_at": found.expires_at})
    else:
        say(f"You are logged in at {url}. Next: finmaas whoami")


def logout(as_json: JsonOption = False) -> None:
    """Forget the login of this machine; the provider's own session goes on.

    Example: finmaas logout
    """
    from finmaas_core.home import find_home
    from finmaas_platform.sdk.connection import find_urls
    from finmaas_platform.sdk.login import store_login

    url = find_urls()[0]
    had = store_login(find_home(), url, None)
    if as_json:
        print_json({"url": url, "logged_out": had})
    else:
        say(f"You are logged out at {url}." if had else f"You were not logged in at {url}.")


def _show_code(code: DeviceCode) -> None:
    say(f"Open {code.verification_uri} in any browser and type {code.user_code}")


def _open_here(url: str) -> None:
    import webbrowser

    say(f"Your browser opens {url}")
    webbrowser.open(url)
