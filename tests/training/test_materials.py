"""What made a model version."""

from __future__ import annotations

import json
import os
from pathlib import Path

from finmaas_training.control import Artefact, JobInputs
from finmaas_training.materials import collect_materials, digest_code, digest_of, list_packages

DATASET = Artefact({"id": "dsv_1", "ref": "default/default/rows@1", "digest": "d" * 64, "splits": {}}, ())
BASE = Artefact({"id": "mdv_1", "ref": "default/default/base@1", "digest": "b" * 64}, ())


class TestMaterials:
    def test_names_code_packages_data_parameters_and_machine(self) -> None:
        inputs = JobInputs("training", {"seed": 17, "epochs": 3}, DATASET, BASE)
        found = collect_materials(inputs, 2, on_gpu=False)
        assert found["dataset"] == {"id": "dsv_1", "ref": "default/default/rows@1", "digest": "d" * 64}
        assert (found["base"]["digest"], found["seed"], found["parameters"]["epochs"]) == ("b" * 64, 17, 3)
        assert found["packages"]["pyarrow"]
        assert found["packages_digest"] == digest_of(list_packages())
        assert found["code"]["digest"] == digest_code()
        assert (found["hardware"]["workers"], found["hardware"]["cores"]) == (2, os.cpu_count())
        assert "gpus" not in found["hardware"]

    def test_is_json_without_names_of_hosts_or_paths(self) -> None:
        text = json.dumps(collect_materials(JobInputs("training", {}, DATASET), 1, on_gpu=False))
        assert os.uname().nodename not in text or len(os.uname().nodename) < 4
        assert str(Path.cwd()) not in text
