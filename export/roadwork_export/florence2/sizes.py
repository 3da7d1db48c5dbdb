"""The published sizes of Florence-2, and one of a few hundred kilobytes that tests serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """What differs between the sizes.

    Attributes:
        side: of the square picture that the network sees, in pixels; 32 of them become one token.
        embed: channels of the four stages of the vision tower. groups: of its channel attention, heads: of its windows.
        hidden, layers, heads, ffn: of the language model, whose encoder and decoder are alike.
        vocabulary: rows of its table of tokens, at least.
        positions: tokens that it can place.
    """

    side: int
    embed: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    groups: tuple[int, int, int, int]
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int

    @property
    def image_tokens(self) -> int:
        """One a cell of 32 pixels, and one for the whole."""
        return (self.side // 32) ** 2 + 1


SIZES = {
    "base": Size(
        768, (128, 256, 512, 1024), (1, 1, 9, 1), (4, 8, 16, 32), hidden=768, layers=6, heads=12, ffn=3072,
        vocabulary=51_290, positions=1024,
    ),
    "large": Size(
        768, (256, 512, 1024, 2048), (1, 1, 9, 1), (8, 16, 32, 64), hidden=1024, layers=12, heads=16, ffn=4096,
        vocabulary=51_290, positions=4096,
    ),
    "tiny": Size(
        128, (16, 16, 32, 32), (1, 1, 1, 1), (2, 2, 2, 2), hidden=64, layers=2, heads=2, ffn=128,
        vocabulary=0, positions=512,
    ),
}  # fmt: skip
"""By the name that the catalogue's `arguments` and `--size` have for it."""


def network_config(size: Size, vocabulary: int, image_token: int) -> Any:
    """The configuration of transformers. Ids of the marks are those of `tokenizer.MARKS`."""
    from transformers import BartConfig, Florence2Config, Florence2VisionConfig

    text = BartConfig(
        vocab_size=vocabulary,
        d_model=size.hidden,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_ffn_dim=size.ffn,
        max_position_embeddings=size.positions,
        dropout=0.1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    vision = Florence2VisionConfig(
        embed_dim=size.embed,
        depths=size.depths,
        num_heads=size.groups,
        num_groups=size.groups,
        projection_dim=size.hidden,
    )
    make: Any = Florence2Config  # its marks are fields of the class above it, which its own signature hides
    return make(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=image_token,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
