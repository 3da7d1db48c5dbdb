"""The Qwen3-VL architecture in plain PyTorch, for batches of images of one grid.

Names of parameters and arithmetic are those of `transformers.Qwen3VLForConditionalGeneration` (a test compares
the two). That implementation packs images of any size into one sequence and loops over them; training wants batches.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rotation = tuple[Tensor, Tensor]


def block_order(rows: int, columns: int, merge: int) -> Tensor:
    """int64 [rows * columns, 2]: row and column of each patch, those of one token behind one another."""
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack([r, c], -1).reshape(rows // merge, merge, columns // merge, merge, 2)
    return grid.transpose(1, 2).reshape(-1, 2)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary embedding of x [B, heads, N, D] with cos and sin [N, D]."""
    cos, sin = rotation
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class VisionAttention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.heads = config["num_heads"]
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v)
        return self.proj(out.transpose(1, 2).reshape(b, n, width))


class VisionMLP(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config["hidden_size"], config["intermediate_size"])
        self.linear_fc2 = nn.Linear(config["intermediate_size"], config["hidden_size"])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config["hidden_size"], eps=1e-6)
        self.norm2 = nn.LayerNorm(config["hidden_size"], eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Four neighbouring patches to one visual token."""

    def __init__(self, config: dict[str, Any], after: bool) -> None:
        super().__init__()
        self.merged = config["hidden_size"] * config["spatial_merge_size"] ** 2
        self.after = after  # norm after the patches are put together
        self.norm = nn.LayerNorm(self.merged if after else config["hidden_size"], eps=1e-6)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, config["out_hidden_size"])

    def forward(self, x: Tensor) -> Tensor:
        joined = x.reshape(x.shape[0], -1, self.merged)
        joined = self.norm(joined) if self.after else self.norm(x).reshape(joined.shape)
        return self.linear_fc2(F.gelu(self.linear_fc1(joined)))


class PatchEmbed(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        kernel = (config["temporal_patch_size"], config["patch_size"], config["patch_size"])
        self.proj = nn.Conv3d(config["in_channels"], config["hidden_size"], kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        # A still image is the same frame twice, so the two frames' weights may be added first.
        return F.linear(patches, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class Visual(nn.Module):
    """Vision tower: patches [B, P, 3 * 16 * 16] in block order -> visual tokens, tokens for text layers, features."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config["num_position_embeddings"], config["hidden_size"])
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config["depth"]))
        self.merger = Merger(config, after=False)
        self.deepstack_merger_list = nn.ModuleList(
            Merger(config, after=True) for _ in config["deepstack_visual_indexes"]
        )

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Returns tokens [B, P / 4, W], one such tensor a deepstack level, features [B, P, V].

        `grid`: rows and columns of patches.
        """
        x = self.patch_embed(patches)
        taps, weights, cos, sin = _vision_positions(
            grid, self.config["num_position_embeddings"], self.config["spatial_merge_size"],
            self.config["hidden_size"] // self.config["num_heads"], x.device, x.dtype,
        )  # fmt: skip
        x = x + (self.pos_embed(taps) * weights[..., None]).sum(1)
        deep: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x, (cos, sin))
            if i in self.config["deepstack_visual_indexes"]:
                deep.append(self.deepstack_merger_list[len(deep)](x))
        return self.merger(x), deep, x


@lru_cache(maxsize=64)
def _vision_positions(
    grid: tuple[int, int], positions: int, merge: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bilinear taps [P, 4] into the learned position grid, their weights, cos and sin [P, head_dim]."""
    place = block_order(*grid, merge)
    side = int(positions**0.5)
    taps, weights = [], []
    for axis in (0, 1):
        at = place[:, axis] * (side - 1) / max(1, grid[axis] - 1)
        low = at.floor().long()
        taps.append(torch.stack([low, (low + 1).clamp(max=side - 1)], 1))
        weights.append(torch.stack([1 - (at - low), at - low], 1))
    index = (taps[0][:, :, None] * side + taps[1][:, None, :]).reshape(-1, 4)
    weight = (weights[0][:, :, None] * weights[1][:, None, :]).reshape(-1, 4)
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2)))
    angles = (place[:, :, None].float() * frequencies).flatten(1).repeat(1, 2)
    return index.to(device), weight.to(device, dtype), angles.cos().to(device, dtype), angles.sin().to(device, dtype)


class TextAttention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, dim = config["hidden_size"], config["head_dim"]
        heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = dim
        self.q_proj = nn.Linear(width, heads * dim, bias=False)
        self.k_proj = nn.Linear(width, kv * dim, bias=False)
        self.v_proj = nn.Linear(width, kv * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, width, bias=False)
        self.q_norm = RMSNorm(dim, config["rms_norm_eps"])
        self.k_norm = RMSNorm(dim, config["rms_norm_eps"])

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        b, n, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(b, n, -1, self.dim)).transpose(1, 2), rotation)
        k = rotate(self.k_norm(self.k_proj(x).view(b, n, -1, self.dim)).transpose(1, 2), rotation)
        v = self.v_proj(x).view(b, n, -1, self.dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, n, -1))


class TextMLP(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn = TextAttention(config)
        self.mlp = TextMLP(config)
        self.input_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.mlp(self.post_attention_layernorm(x))


class Text(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])


class Model(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.visual = Visual(config["vision_config"])
        self.language_model = Text(config["text_config"])


class TinyVLM(nn.Module):
    """Image patches and prompt tokens in, logits of the next tokens out. `config` is the content of `config.json`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.model = Model(config)
        self.apply(self._start)

    @staticmethod
    def _start(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv3d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(
        self, patches: Tensor, grid: tuple[int, int], before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, L, vocabulary] at the tokens `after` [B, L], visual tokens [B, P / 4, W], features [B, P, V].

        `patches` [B, P, 768] in block order of `grid` (rows, columns of patches); `before` [K] are the tokens before
        the image. Attention is causal, so tokens that fill `after` up behind an answer change nothing before them.
        """
        tokens, deep, features = self.model.visual(patches, grid)
        return self.read(tokens, deep, grid, before, after), tokens, features

    def read(self, tokens: Tensor, deep: list[Tensor], grid: tuple[int, int], before: Tensor, after: Tensor) -> Tensor:
        """Logits [B, L, vocabulary] from what `model.visual` made of the patches."""
        text, config = self.model.language_model, self.config["text_config"]
        b, n = tokens.shape[:2]
        start = before.shape[0]
        first = text.embed_tokens(before).expand(b, -1, -1)
        x = torch.cat([first, tokens, text.embed_tokens(after)], 1)
        merge = self.config["vision_config"]["spatial_merge_size"]
        rotation = _text_positions(
            start, (grid[0] // merge, grid[1] // merge), after.shape[1], config["head_dim"], config["rope_theta"],
            tuple(config["rope_scaling"]["mrope_section"]), x.device, x.dtype,
        )  # fmt: skip
        for i, layer in enumerate(text.layers):
            x = layer(x, rotation)
            if i < len(deep):
                x = torch.cat([x[:, :start], x[:, start : start + n] + deep[i], x[:, start + n :]], 1)
        x = text.norm(x[:, start + n :])
        return F.linear(x, text.embed_tokens.weight)


@lru_cache(maxsize=512)
def _text_positions(
    start: int, grid: tuple[int, int], after: int, dim: int, theta: float, sections: tuple[int, ...],
    device: torch.device, dtype: torch.dtype,
) -> Rotation:  # fmt: skip
    """cos and sin [start + rows * columns + after, dim] of the interleaved rotary embedding in 3 axes."""
    rows, columns = grid
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    image = torch.stack([torch.zeros_like(r), r, c]).reshape(3, -1) + start
    tail = torch.arange(after).expand(3, -1) + start + max(rows, columns)
    place = torch.cat([torch.arange(start).expand(3, -1), image, tail], 1).float()
    frequencies = 1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))
    angles = place[:, :, None] * frequencies
    mixed = angles[0].clone()
    for axis in (1, 2):
        own = slice(axis, sections[axis] * 3, 3)
        mixed[:, own] = angles[axis][:, own]
    both = torch.cat([mixed, mixed], -1)
    return both.cos().to(device, dtype), both.sin().to(device, dtype)
