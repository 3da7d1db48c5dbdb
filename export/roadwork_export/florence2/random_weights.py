"""Florence-2 with random weights that writes lines: noise in the form of text with places, so that a check compares
something. It reads nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ..random_weights import liven, seeded
from .sizes import Size, network_config
from .tokenizer import PLACES, make_processor

LETTERS = 4
"""Tokens of text of each line."""
PERIOD = LETTERS + 8
_WORDY = re.compile(r"Ġ?[A-Za-z]+")
_LOUD = 3.0
_POSITIONS_BEFORE = 2
"""Rows of Bart's table of positions before that of the first token."""


def make_random(size: Size, seed: int, keywords: Path) -> tuple[Any, Any]:
    """Network in evaluation mode, float32, and processor.

    The rhythm of lines is put into the decoder's positions: a direction of its own says at each step whether text or a
    place is due. Which token it is then depends on the picture and on what was written before.
    """
    from transformers import Florence2ForConditionalGeneration, GenerationConfig

    processor = make_processor(size, keywords)
    tokenizer = processor.tokenizer
    vocabulary = max(size.vocabulary, len(tokenizer))
    with seeded(seed):
        network: Any = Florence2ForConditionalGeneration(network_config(size, vocabulary, tokenizer.image_token_id))
        network = network.float().eval()
        direction = torch.nn.functional.normalize(torch.randn(size.hidden), dim=0)
    liven(network.model.vision_tower, lambda: None, seed)
    with torch.no_grad():
        for layer in network.model.language_model.decoder.layers:
            for part in (layer.encoder_attn.v_proj, layer.encoder_attn.out_proj):
                part.weight.mul_(0.02**-1 * size.hidden**-0.5)  # what is seen counts as much as what was written
        text = [at for token, at in tokenizer.get_vocab().items() if _WORDY.fullmatch(token)]
        places = tokenizer.convert_tokens_to_ids(list(PLACES))
        table = network.get_input_embeddings().weight
        table -= torch.outer(table @ direction, direction)
        table[text] -= direction
        table[places] += direction
        positions = network.model.language_model.decoder.embed_positions.weight
        due = torch.arange(len(positions)) - _POSITIONS_BEFORE - 1  # the first that is written is <s>
        sign = torch.where(due % PERIOD < LETTERS, -_LOUD, _LOUD)
        positions += torch.outer(sign, direction)
    # As published, beams and all: what the folder and its check do not want they have to say.
    network.generation_config = GenerationConfig(
        num_beams=3, early_stopping=True, no_repeat_ngram_size=3, forced_bos_token_id=0, forced_eos_token_id=2,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return network, processor
