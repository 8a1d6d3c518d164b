"""Whether a tokenizer is one of the text encoder: it ends and pads texts as it must, and every number that it gives has a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.lane.prepare.failures import Cause, PrepareError

_NAMED_ROWS = 0.99
"""Share of the embedding's rows that must have a token. UMT5 has at least 256,000 for 256,384 rows (99.8 %). Vocabularies of T5 (32,100)
and mT5 (250,100, 97.5 %) are others: they give other numbers for the same text, without any error."""


def check_vocabulary(file: Path, config: Any) -> None:
    """Compares a tokenizer's file with the configuration of the text encoder.

    Raises:
        PrepareError: it cannot be read, or it is of another vocabulary.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no type of its own for a file that it cannot read
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} cannot be read as a tokenizer: {error}") from error
    rows, numbers = config.vocab_size, tokenizer.get_vocab(with_added_tokens=True).values()
    wrong = []
    if max(numbers, default=0) >= rows:
        wrong.append(f"it gives numbers up to {max(numbers)}, and the text encoder has {rows} rows")
    elif len(set(numbers)) < rows * _NAMED_ROWS:
        wrong.append(f"it has {len(set(numbers))} tokens, and the text encoder {rows} rows")
    for token, number in (("<pad>", config.pad_token_id), ("</s>", config.eos_token_id)):
        if tokenizer.token_to_id(token) != number:
            wrong.append(f"{token} is {tokenizer.token_to_id(token)} and not {number}")
    if not wrong and tokenizer.encode("a").ids[-1:] != [config.eos_token_id]:
        wrong.append("it does not end a text with </s>")
    if wrong:
        msg = f"{file} is of another vocabulary than the text encoder: {'; '.join(wrong)}"
        raise PrepareError(Cause.WRONG_SOURCE, msg)
