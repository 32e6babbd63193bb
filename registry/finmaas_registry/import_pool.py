"""Blocks of one import converted side by side, their results in the order of the file.

The workers are forked, so that they share the libraries' memory; therefore the process that asks for them must have no
other threads yet: `import_process` is one. That process and its workers share its standard input, which whoever asked
for the import keeps open: when it ends, because the asker is gone, all of them end.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from finmaas_core.errors import EnvironmentFault
from finmaas_registry.import_blocks import Block, BlockConverter, BlockFacts

AHEAD = 2  # blocks that wait for each worker: bounds memory, and keeps them busy

_converter: BlockConverter | None = None


def convert_blocks(converter: BlockConverter, blocks: Iterator[Block], workers: int) -> Iterator[BlockFacts]:
    """What each block adds, in order. Raises what `BlockConverter.convert` raises for the first bad block."""
    if not workers:
        for number, block in enumerate(blocks):
            yield converter.convert(number, block)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(converter,))
    waiting: deque[Future[BlockFacts]] = deque()
    try:
        for number, block in enumerate(blocks):
            waiting.append(pool.submit(_convert, number, block))
            if not number:  # now the workers are there
                _end_with_input()
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise EnvironmentFault(
            "a process that converts rows was killed; give it more memory and import again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(converter: BlockConverter) -> None:
    global _converter
    _converter = converter
    _end_with_input()


def _end_with_input() -> None:
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _convert(number: int, block: Block) -> BlockFacts:
    assert _converter is not None
    return _converter.convert(number, block)
