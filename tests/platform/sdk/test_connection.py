from __future__ import annotations

from pathlib import Path

import pytest

from finmaas_core.errors import InvalidInput, NotAuthenticated, Unavailable
from finmaas_core.home import Home, write_secret
from finmaas_platform.sdk.connection import Address, find_address


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FINMAAS_URL", "FINMAAS_TOKEN", "FINMAAS_GATEWAY_URL", "FINMAAS_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = Home(tmp_path / "home")
    home.make()
    home.config.write_text("port_base = 9000\n")
    write_secret(home.admin_token, "fma_own\n")
    return home.root


class TestFindAddress:
    def test_reads_the_home_folder(self, home: Path) -> None:
        assert find_address(home=home) == Address("http://127.0.0.1:9001", "http://127.0.0.1:9000", "fma_own")

    def test_the_environment_wins_over_the_home(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINMAAS_URL", "https://maas.bank.example/api/v1/")
        monkeypatch.setenv("FINMAAS_TOKEN", "fma_other")
        monkeypatch.setenv("FINMAAS_GATEWAY_URL", "https://gw.bank.example/v1")
        assert find_address(home=home) == Address("https://maas.bank.example", "https://gw.bank.example", "fma_other")

    def test_arguments_win_over_the_environment(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINMAAS_URL", "https://maas.bank.example")
        monkeypatch.setenv("FINMAAS_TOKEN", "fma_other")
        assert find_address("http://10.0.0.1:1", "fma_mine", home).token == "fma_mine"

    def test_the_admin_token_never_goes_to_another_host(self, home: Path) -> None:
        with pytest.raises(NotAuthenticated, match="FINMAAS_TOKEN"):
            find_address("https://elsewhere.example", home=home)

    def test_the_gateway_of_another_host_is_not_guessed(self, home: Path) -> None:
        assert find_address("https://elsewhere.example", "fma_x", home).gateway_url == ""

    def test_says_how_to_start_where_nothing_is_installed(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="finmaas up"):
            find_address(home=tmp_path / "none")

    def test_says_so_when_the_token_is_missing(self, home: Path) -> None:
        Home(home).admin_token.unlink()
        with pytest.raises(NotAuthenticated, match="FINMAAS_TOKEN"):
            find_address(home=home)

    def test_refuses_what_is_no_address(self, home: Path) -> None:
        with pytest.raises(InvalidInput, match="not an address"):
            find_address("maas.bank.example", home=home)
