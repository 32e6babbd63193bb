"""The kernel: ids, errors, quantities, settings, home folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import EnvironmentFault, FinmaasError, InvalidInput, all_error_classes
from finmaas_core.home import Home, find_home, write_secret
from finmaas_core.ids import PREFIXES, new_id
from finmaas_core.quantities import Money, check_digest
from finmaas_core.settings import PORT_OFFSETS, load_settings


class TestIds:
    def test_ids_of_a_kind_sort_by_time_and_never_repeat(self) -> None:
        ids = [new_id("job") for _ in range(1000)]
        assert len(set(ids)) == 1000
        assert ids[0][:14] <= ids[-1][:14]
        assert all(len(made) == len("job_") + 26 for made in ids)

    def test_prefixes_are_distinct(self) -> None:
        assert len(set(PREFIXES.values())) == len(PREFIXES)


class TestErrors:
    def test_codes_are_unique_and_documented(self) -> None:
        classes = all_error_classes()
        assert len({cls.code for cls in classes}) == len(classes)
        assert all(cls.__doc__ for cls in classes)

    def test_the_tree_in_the_docstring_names_every_class(self) -> None:
        from finmaas_core import errors

        for cls in all_error_classes():
            if cls is not FinmaasError:
                assert f"{cls.__name__} " in (errors.__doc__ or ""), cls
                assert f" {cls.code} " in (errors.__doc__ or ""), cls


class TestMoney:
    @given(st.integers(), st.integers())
    def test_sums_are_exact(self, one: int, other: int) -> None:
        assert (Money(one, "CNY") + Money(other, "CNY")).nano == one + other

    def test_currencies_do_not_mix(self) -> None:
        with pytest.raises(InvalidInput, match="cannot add USD to CNY"):
            Money(1, "CNY") + Money(1, "USD")


class TestDigests:
    @pytest.mark.parametrize("text", ["", "abc", "G" * 64, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
    def test_what_is_not_a_digest_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            check_digest(text)


class TestHome:
    def test_nearest_marker_above_wins_over_the_users_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("FINMAAS_HOME", raising=False)
        (tmp_path / ".finmaas").mkdir()
        (tmp_path / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a" / "b")
        assert find_home().root == (tmp_path / ".finmaas").resolve()

    def test_secrets_are_readable_by_their_owner_alone(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "home")
        home.make()
        write_secret(home.pepper, "x")
        assert stat.S_IMODE(home.pepper.stat().st_mode) == 0o600
        assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700

    def test_rays_sockets_fit_into_a_unix_address(self, tmp_path: Path) -> None:
        home = Home(tmp_path / ("long" * 40))
        socket = home.ray_temp / "session_2026-11-22_16-00-00_000000_1234567" / "sockets" / "plasma_store"
        assert len(str(socket)) < 107


class TestSettings:
    def test_environment_wins_over_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config.toml").write_text("port_base = 9000\nray_slots = 3\n")
        monkeypatch.setenv("FINMAAS_RAY_SLOTS", "7")
        settings = load_settings(tmp_path)
        assert (settings.port("gateway"), settings.ray_slots) == (9000, 7)

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text("port_base = ")
        with pytest.raises(EnvironmentFault, match=r"config\.toml is not valid TOML"):
            load_settings(tmp_path)

    def test_no_two_parts_share_a_port(self) -> None:
        assert len(set(PORT_OFFSETS.values())) == len(PORT_OFFSETS)
