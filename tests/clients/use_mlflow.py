"""MLflow's client with the registry as its artifact repository; run with MLFLOW_TRACKING_TOKEN.

python use_mlflow.py log FOLDER URI         logs a model folder into a draft
python use_mlflow.py load URI FOLDER        downloads a version, as a run's code would
python use_mlflow.py list URI
"""

from __future__ import annotations

import json
import sys

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository


def main(verb: str, first: str, second: str = "") -> object:
    """What the verb gives."""
    if verb == "log":
        get_artifact_repository(second).log_artifacts(first)
        return []
    if verb == "load":
        return mlflow.artifacts.download_artifacts(artifact_uri=first, dst_path=second)
    return [[item.path, item.is_dir, item.file_size] for item in mlflow.artifacts.list_artifacts(first)]


print(json.dumps(main(*sys.argv[1:])))
