"""Builds a small Llama from scratch, in seconds: a stand-in for a real base where no model hub is reachable.

Its tokenizer is a byte-level BPE trained on the texts it is given, so no text of any language is unknown to it; its
token embeddings start from co-occurrence statistics of the same texts (see `cooccurrence_embeddings`), two attention
heads of the first layer look at the tokens just before (see `point_heads_back`), everything else is random. It knows
nothing else of the world: fine-tune it, or import a real model (`finmaas model import <folder>`) and name that one as
`base`. This module is not a way to pre-train a language model.

    python -m finmaas_training.base_model --texts rows.csv --columns text,label --out base/ --seed 7
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finmaas_core.errors import BadRow, FinmaasError, InvalidInput

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, END, SYSTEM, USER, ASSISTANT)

# One special token before each turn and one after: the shortest prompt that still tells the roles apart. What a user
# writes is lower-cased and begins with a space, so that a word is one token wherever it stands; answers keep case.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{ '<|user|> ' + message['content'] | lower + '<|end|>' }}"
    "{%- else -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

# Standard deviation of a warm-started embedding's elements. Three times the usual 0.02, so that the statistics are not
# overwritten by the first, large steps of fine-tuning. Measured only together with token dropout.
EMBEDDING_SPREAD = 0.06

# For `point_heads_back`: how many tokens back each head looks, how sharply (a token beside the wanted one gets 0.05 of
# its weight), how many rotary pairs carry it (the fast ones; slow ones hardly tell neighbours apart), and how long the
# constant element of an embedding is beside the rest of it.
STEPS_BACK = (1, 2)
SHARPNESS = 24.0
ROTARY_PAIRS = 12
CONSTANT_SHARE = 0.25

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BaseShape:
    """The size of the model. `hidden / heads` must be a head size that vLLM's CPU attention has (32, 64, 96, 128).

    Wide and shallow on purpose: on a CPU two layers of 256 take 0.6 of the time of four layers of 192.
    """

    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 2
    heads: int = 4
    feed_forward: int = 768
    positions: int = 1024


def build_base(
    texts: Sequence[str], out: Path, *, seed: int = 0, shape: BaseShape | None = None, warm_start: bool = True
) -> dict[str, Any]:
    """Write a Hugging Face folder with tokenizer, configuration and weights (bf16) to `out`; return its facts.

    `out` must not exist or be empty. The same texts in the same order, seed and shape give the same bytes.
    Raises InvalidInput for texts without content or an `out` that holds something.
    """
    started = time.monotonic()
    shape = shape or BaseShape()
    if not any(text.strip() for text in texts):
        raise InvalidInput("the texts for the base model are all empty; give at least a few sentences")
    if out.exists() and any(out.iterdir()):
        raise InvalidInput(f"{out} already holds files; name a new folder or empty it first", path=str(out))
    tokenizer = train_tokenizer(texts, shape.vocabulary, shape.positions)
    model = new_model(tokenizer, shape, seed)
    if warm_start:
        warm_start_embeddings(model, tokenizer, texts, seed)
        point_heads_back(model)
    _save(model, tokenizer, out)
    return {
        **asdict(shape),
        "vocabulary": len(tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
        "texts": len(texts),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 2),
    }


def train_tokenizer(texts: Sequence[str], vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens, with the chat template of this module.

    It learns from the texts as prompts show them; from those that occur again and again (labels) also as they stand.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*map(as_prompt, texts), *_repeated(texts)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, bos_token=None, unk_token=None, model_max_length=positions
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def as_prompt(text: str) -> str:
    """A text as the chat template shows it to the model when a user writes it."""
    return f" {text.lower()}"


def new_model(tokenizer: PreTrainedTokenizerFast, shape: BaseShape, seed: int) -> LlamaForCausalLM:
    """A Llama of that shape with random weights drawn from `seed`.

    Input and output embeddings are two matrices: the warm start of the input would otherwise make the first logits
    large, and the first steps of fine-tuning would be spent on that.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model


def warm_start_embeddings(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int
) -> None:
    """Replace the embeddings of seen tokens by their co-occurrence vectors; the rest keep their random values."""
    rows = [ids for ids in tokenizer([as_prompt(text) for text in texts], add_special_tokens=False)["input_ids"] if ids]
    hidden = model.config.hidden_size
    vectors = cooccurrence_embeddings(rows, len(tokenizer), hidden, seed=seed)
    seen = torch.from_numpy(np.linalg.norm(vectors, axis=1) > 0)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        scaled = torch.from_numpy(vectors) * (EMBEDDING_SPREAD * hidden**0.5)
        weight[seen] = scaled[seen].to(weight.dtype)


def point_heads_back(model: LlamaForCausalLM, steps: Sequence[int] = STEPS_BACK) -> None:
    """Let head i of the first layer look at the token `steps[i]` places before each token.

    Word order is what a random model of this size learns last: heads for word pairs form after hundreds of steps. The
    last element of every embedding becomes a constant share of its length; queries and keys made of it alone meet best,
    after the rotary turn, at the wanted distance. Values, outputs and all other heads stay random, and fine-tuning may
    change everything.
    """
    config = model.config
    width, half = config.head_dim, config.head_dim // 2
    pairs = min(ROTARY_PAIRS, half)
    speeds = float(config.rope_parameters["rope_theta"]) ** (-torch.arange(pairs) / half)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[:, -1] = CONSTANT_SHARE * embeddings[:, :-1].norm(dim=1)
        # The value of that element after the first normalisation, the same for all tokens.
        constant = CONSTANT_SHARE * (config.hidden_size / (1 + CONSTANT_SHARE**2)) ** 0.5
        size = SHARPNESS**0.5 / constant
        attention = model.model.layers[0].self_attn
        for head, distance in enumerate(steps[: config.num_attention_heads]):
            query = attention.q_proj.weight[head * width : (head + 1) * width, -1]
            key = attention.k_proj.weight[head * width : (head + 1) * width, -1]
            query.zero_()
            key.zero_()
            query[:pairs] = size * torch.cos(distance * speeds)
            query[half : half + pairs] = -size * torch.sin(distance * speeds)
            key[:pairs] = size


def cooccurrence_embeddings(
    rows: Sequence[Sequence[int]], vocabulary: int, dimensions: int, *, window: int = 5, seed: int = 0
) -> Matrix:
    """Unit-length token vectors of shape (vocabulary, dimensions); tokens that never occur get zeros.

    The left singular vectors of the shifted positive PMI of tokens within `window` places of each other, which is what
    word2vec factorises (Levy and Goldberg, 2014, "Neural Word Embedding as Implicit Matrix Factorization").
    """
    counts = _cooccurrence_counts(rows, vocabulary, window)
    totals = counts.sum(axis=1, keepdims=True)
    smoothed = totals**0.75
    expected = totals @ (smoothed.T / max(float(smoothed.sum()), 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(counts / expected)
    pmi = np.where(np.isfinite(pmi), np.maximum(pmi, 0.0), 0.0).astype(np.float32)
    generator = torch.Generator().manual_seed(seed)
    left, singular = _truncated_svd(torch.from_numpy(pmi), dimensions, generator)
    vectors = (left * singular.sqrt()).numpy()
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Matrix = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    return unit


def _cooccurrence_counts(rows: Sequence[Sequence[int]], vocabulary: int, window: int) -> Matrix:
    """Symmetric counts (vocabulary, vocabulary); a pair that is d places apart counts 1/d."""
    counts = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    for distance in range(1, window + 1):
        same = row_of[distance:] == row_of[:-distance]
        left, right = flat[:-distance][same], flat[distance:][same]
        np.add.at(counts, (left, right), np.float32(1.0 / distance))
        np.add.at(counts, (right, left), np.float32(1.0 / distance))
    return counts


def _repeated(texts: Sequence[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1 for _ in range(count)]


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write beside `out` and rename, so that a half-written folder never carries the name."""
    unfinished = out.with_name(f"{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    if out.exists():
        out.rmdir()
    unfinished.rename(out)


def _truncated_svd(matrix: torch.Tensor, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Left vectors (n, rank) and singular values (rank) by randomised subspace iteration (Halko et al., 2011)."""
    probe = torch.randn(matrix.shape[1], rank + 16, generator=generator)
    basis, _ = torch.linalg.qr(matrix @ probe)
    for _ in range(3):
        basis, _ = torch.linalg.qr(matrix @ (matrix.T @ basis))
    left, singular, _ = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    vectors = (basis @ left)[:, :rank]
    vectors = vectors * torch.sign(vectors.sum(dim=0, keepdim=True) + 1e-12)
    return vectors, singular[:rank]


def read_texts(path: Path, columns: Sequence[str] = ()) -> list[str]:
    """The texts of a file: every line of a .txt, every value of the named columns of a .csv, .jsonl or .parquet.

    Without `columns` all values that are strings count. Raises InvalidInput for another kind of file or an unknown
    column, BadRow for a line that is not JSON.
    """
    readers = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path} is not a file of texts this reads; give one of {', '.join(readers)}")
    texts: list[str] = []
    for row in reader(path):
        missing = [column for column in columns if column not in row]
        if missing and path.suffix.lower() != ".txt":
            raise InvalidInput(f"{path} has no column {missing[0]!r}; it has {', '.join(row)}")
        wanted = row.values() if missing or not columns else [row[column] for column in columns]
        texts.extend(value for value in wanted if isinstance(value, str) and value.strip())
    return texts


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            yield {"text": line.rstrip("\n")}


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadRow(f"{path} line {number} is not JSON: {error.msg}", file=str(path), line=number) from None
            yield row if isinstance(row, dict) else {"text": row}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; prints the facts of the base as JSON."""
    parser = argparse.ArgumentParser(description="Build a small base model from texts.")
    parser.add_argument("--texts", type=Path, action="append", required=True, help="file of texts; may be repeated")
    parser.add_argument("--columns", default="", help="columns to read, comma-separated; all text columns if absent")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    columns = [column for column in given.columns.split(",") if column]
    texts = [text for path in given.texts for text in read_texts(path, columns)]
    try:
        facts = build_base(texts, given.out, seed=given.seed)
    except FinmaasError as error:
        parser.error(error.message)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
