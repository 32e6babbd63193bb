"""transformers and datasets with the registry as their Hub: run with HF_ENDPOINT and HF_TOKEN; prints what it saw.

python use_hub.py write FOLDER MODEL DATASET      pushes a model folder and two splits of rows
python use_hub.py read MODEL REVISION DATASET     loads both again
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = {"text": ["我的卡丢了", "my card was lost"], "label": ["card_lost", "card_lost"]}


def write(folder: str, model: str, dataset: str) -> dict[str, object]:
    """Pushes the model, then its tokenizer, and a dataset in two configurations, as notebooks do."""
    AutoModelForCausalLM.from_pretrained(folder).push_to_hub(model)
    AutoTokenizer.from_pretrained(folder).push_to_hub(model)
    rows = Dataset.from_dict(ROWS)
    for config in ("cards", "loans"):
        rows.push_to_hub(dataset, config, split="train")
    return {"pushed": [model, dataset]}


def read(model: str, revision: str, dataset: str, folder: str) -> dict[str, object]:
    """Loads both, and compares the weights with those of the folder."""
    loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    original = AutoModelForCausalLM.from_pretrained(folder)
    pairs = zip(loaded.state_dict().values(), original.state_dict().values(), strict=True)
    return {
        "same_weights": all(torch.equal(one, other) for one, other in pairs),
        "ids": tokenizer("my card", add_special_tokens=False)["input_ids"],
        "rows": load_dataset(dataset, "loans", split="train").to_dict(),
    }


def imported(dataset: str, _: str = "") -> dict[str, object]:
    """Loads a version that the platform's own import made, whole and as a stream."""
    splits = load_dataset(dataset, revision="v1")
    first = next(iter(load_dataset(dataset, revision="v1", split="train", streaming=True)))
    return {"splits": {name: rows.num_rows for name, rows in splits.items()}, "first": first}


if __name__ == "__main__":
    result = {"write": write, "read": read, "imported": imported}[sys.argv[1]](*sys.argv[2:])
    Path("result.json").write_text(json.dumps(result, ensure_ascii=False))
