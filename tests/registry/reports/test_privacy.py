from __future__ import annotations

import pyarrow as pa
import pytest

from finmaas_registry.reports.privacy import PrivacyFindings, find_personal, mask_example, mask_personal


class TestFindPersonal:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("call me on 13812345678 please", {"cn_mobile": "13812345678"}),
            ("full width １３８１２３４５６７８", {"cn_mobile": "13812345678"}),
            ("我叫王小明", {"cn_name": "王小明"}),
            ("身份证 11010519491231002X", {"cn_id_card": "11010519491231002X"}),
            ("write to bob@example.com", {"email": "bob@example.com"}),
            ("x13812345678", {}),
            ("order 4111111111111112", {}),  # no Luhn digit
            ("the rate is 3.85 percent", {}),
        ],
    )
    def test_finds_what_passes_its_check(self, text: str, expected: dict[str, str]) -> None:
        assert find_personal(text) == expected


class TestPrivacyFindings:
    def test_counts_rows_by_column_and_rule(self) -> None:
        found = PrivacyFindings()
        found.add("text", pa.array(["mail bob@example.com", "nothing", None, "13812345678 or a@b.com"]))
        found.add("phone", pa.array([13812345678, 5, None, 13912345678]))
        found.add("seat", pa.array(["x@y.com"] * 30 + ["none"] * 10))
        chats = [[{"role": "user", "content": "我叫王小明"}, {"role": "assistant", "content": "您好"}]]
        found.add("messages", pa.array(chats))
        told = found.as_json(100)
        assert {(one["column"], one["rule"]): one["rows"] for one in told["findings"]} == {
            ("seat", "email"): 30,
            ("text", "email"): 2,
            ("phone", "cn_mobile"): 2,
            ("text", "cn_mobile"): 1,
            ("messages", "cn_name"): 1,
        }
        assert told["columns"]["text"] == {"rows": 2, "share": 0.02}
        assert told["findings"][0]["examples"] == ["x*****m"]

    def test_parts_add_up_to_the_whole(self) -> None:
        rows = [f"mail user{number}@example.com" for number in range(10)] + ["13812345678"] * 5
        whole, parts = PrivacyFindings(), PrivacyFindings()
        whole.add("text", pa.array(rows))
        for at in range(0, len(rows), 4):
            part = PrivacyFindings()
            part.add("text", pa.array(rows[at : at + 4]))
            parts.merge(part)
        assert parts.as_json(15) == whole.as_json(15)


class TestMask:
    def test_leaves_nothing_of_the_value_but_its_ends(self) -> None:
        assert mask_example("13812345678") == "13*******78"
        assert mask_example("王小明") == "王*明"
        assert mask_example("x") == "*"
        assert mask_personal("我叫王小明, 13812345678") == "我叫王*明, 13*******78"
