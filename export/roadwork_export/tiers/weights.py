"""A model's folder in the layout of the Hugging Face hub: configuration, tokenizer, processors, weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .network import TinyVLM
from .sizes import VOCABULARY, Size, model_config, processor_configs
from .tokenizer import special_ids, tokenizer_files


def fresh(size: Size, tokenizer: Tokenizer) -> TinyVLM:
    """A network of this size with random weights."""
    return TinyVLM(model_config(size, VOCABULARY, special_ids(tokenizer)))


def write_model(folder: Path, size: Size, tokenizer: Tokenizer, network: TinyVLM) -> None:
    """Write everything that transformers and vLLM need, the weights as bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = special_ids(tokenizer)
    files = dict(tokenizer_files(tokenizer))
    files["config.json"] = json.dumps(network.config, indent=1) + "\n"
    files["generation_config.json"] = (
        json.dumps({"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "do_sample": False}, indent=1) + "\n"
    )
    files |= {name: json.dumps(content, indent=1) + "\n" for name, content in processor_configs(size).items()}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    state = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in network.state_dict().items()}
    half = folder / "model.safetensors.half"
    save_file(state, half, metadata={"format": "pt"})
    half.rename(folder / "model.safetensors")


def read_model(folder: Path) -> TinyVLM:
    """The network of a folder that `write_model` wrote, in float32. Raises FileNotFoundError where one is missing."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: not there; roadwork-export train-tier writes it")
    network = TinyVLM(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.float().eval()
