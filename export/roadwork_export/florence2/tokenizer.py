"""A processor of Florence-2 without the hub: its own kind of tokenizer, trained on the keywords of signs."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .sizes import Size

MARKS = ("<s>", "<pad>", "</s>", "<unk>")
"""In the order of their ids, which are Bart's."""
PLACES = tuple(f"<loc_{number}>" for number in range(1000))
TASKS = (
    "<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>",
    "<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>", "<proposal>",
    "</proposal>", "<poly>", "</poly>", "<and>",
)  # fmt: skip
"""As Microsoft published them, with their spelling."""
ADDED = ("<od>", "</od>", "<ocr>", "</ocr>", *PLACES, *TASKS)
PATTERN = "(.+?)" + r"<loc_(\d+)>" * 8
KINDS = (
    "pure_text", "phrase_grounding", "description_with_bboxes", "description_with_polygons", "polygons", "bboxes",
    "description_with_bboxes_or_polygons",
)  # fmt: skip
VOCABULARY = 1200
"""Pieces of words, at most."""
QUESTION = "What is the text in the image, with regions?"


@lru_cache(maxsize=2)
def _trained(keywords: Path) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Vocabulary and merges of a byte-level tokenizer; the same table always gives the same ones."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    phrases = yaml.safe_load(keywords.read_text(encoding="utf-8"))["phrases"]
    texts = [str(text) for language in phrases.values() for text in language]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(text.upper() for text in texts), QUESTION], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return model["vocab"], tuple((left, right) for left, right in pairs)


def make_processor(size: Size, keywords: Path) -> Any:
    """`Florence2Processor` for pictures of this size, as published but for the words that its tokenizer knows.

    Args:
        keywords: `keywords.yaml` of `sign_text`.
    """
    from transformers import BartTokenizer, CLIPImageProcessor, Florence2Processor

    vocabulary, merges = _trained(keywords)
    make: Any = BartTokenizer
    tokenizer = make(
        vocab=dict(vocabulary),
        merges=list(merges),
        model_max_length=size.positions,
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens(list(ADDED), special_tokens=True)
    pictures: Any = CLIPImageProcessor(
        size={"height": size.side, "width": size.side},
        crop_size={"height": size.side, "width": size.side},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    pictures.image_seq_length = size.image_tokens
    rules: dict[str, Any] = {"ocr": {"PATTERN": PATTERN, "AREA_THRESHOLD": 0.0}, **{kind: {} for kind in KINDS}}
    return Florence2Processor(image_processor=pictures, tokenizer=tokenizer, post_processor_config=rules)
