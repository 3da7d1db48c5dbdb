"""Prompts of open-vocabulary detectors, and a tokenizer for when there are no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .catalogue import Entry
from .classes import TABLES, read_table
from .errors import ExportError

PROMPTS = TABLES / "prompts.yaml"


def prompts_of(entry: Entry) -> dict[str, str]:
    """Prompt -> class of the taxonomy: those that the user gave, else those of `tables/prompts.yaml`."""
    given = entry.arguments.get("prompts")
    return dict(given) if given is not None else read_table(PROMPTS)


def stand_in_tokenizer(
    texts: Sequence[str], special: Mapping[str, int], frame: tuple[str, str], padding: str, **settings: Any
) -> Any:
    """A tokenizer of transformers for models with random weights, whose vocabulary nobody has.

    Every word of `texts` is one token, numbered from 2000 on in the order of the alphabet.

    Args:
        special: further tokens with the numbers that the model's own tokenizer gives them.
        frame: those of them that begin and end a text; the second is also what an unknown word becomes.
        padding: that of them which fills up.
        settings: of transformers' tokenizer, such as `model_max_length`.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word, _ in _split().pre_tokenize_str(text.lower())} - set(special))
    begin, end = frame
    tokenizer = Tokenizer(WordLevel({**special, **{word: 2000 + i for i, word in enumerate(words)}}, unk_token=end))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, special[begin]), (end, special[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=padding, bos_token=begin, eos_token=end, unk_token=end, **settings
    )


def _split() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.BertPreTokenizer()


def fits(prompt: str, tokens: int, most: int, name: str) -> None:
    """Raises ExportError for a prompt of more than `most` tokens: the model would not read its end."""
    if tokens > most:
        raise ExportError(f"{name}: the prompt {prompt!r} has {tokens} tokens, at most {most} are read; shorten it")
