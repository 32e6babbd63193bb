"""A version of as many files as it may have. Their bytes are few: how files travel is in test_transfer.py."""

from __future__ import annotations

from fastapi.testclient import TestClient
from model_files import FILES, put

from finmaas_registry.manifest import MAX_FILES

Headers = dict[str, str]
URL = "/api/v1/models/default/default/wide/versions"


def test_a_version_of_100_000_files(client: TestClient, engineer: Headers) -> None:
    files = put(client, engineer, FILES)
    one = files[0]
    files += [{**one, "path": f"notes/{n // 1000:03d}/passage-{n:06d}.txt"} for n in range(MAX_FILES - len(files))]
    assert len(files) == MAX_FILES == 100_000
    made = client.post(URL, json={"files": files}, headers=engineer)
    assert made.status_code == 201
    again = client.post(URL, json={"files": files[::-1]}, headers=engineer)
    assert (again.status_code, again.json()["digest"]) == (200, made.json()["digest"])
    found = client.get(f"{URL}/1", headers=engineer).json()
    assert {file["path"] for file in found["files"]} == {file["path"] for file in files}
    (shown,) = client.get("/api/v1/models", headers=engineer).json()["items"]
    assert shown["name"] == "wide"

    tree, url = [], f"/api/models/default/default.wide/tree/v1/notes/{0:03d}?recursive=true"
    while url:
        page = client.get(url, headers=engineer)
        tree += page.json()
        url = page.links.get("next", {}).get("url", "")
    assert len(tree) == 1000
    head = client.head("/default/default.wide/resolve/v1/notes/099/passage-099000.txt", headers=engineer)
    assert (head.status_code, head.headers["X-Linked-Size"]) == (200, str(one["size"]))

    more = client.post(URL, json={"files": [*files, {**one, "path": "one-more"}]}, headers=engineer)
    assert (more.status_code, "100000" in more.json()["detail"].replace(",", "")) == (422, True)
