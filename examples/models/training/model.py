"""The tiny Llama model: plain PyTorch, tensor names and files as Hugging Face has them.

Shapes: B sequences of S token ids; a token id is a byte value or one of the
four special ids below.  All sizes are those of CONFIG.
"""

from __future__ import annotations

import json
import lzma
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOS, EOS, PAD, UNK = 256, 257, 258, 259

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 6,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": PAD,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 260,
}

GENERATION_CONFIG = {
    "bos_token_id": BOS,
    "do_sample": True,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "temperature": 0.8,
    "top_k": 0,
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (x.float() * scale).to(x.dtype) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding of x (B, heads, S, head_dim); cos, sin (S, head_dim/2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class Attention(nn.Module):
    """Causal attention with grouped key and value heads."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, self.dim = config["hidden_size"], config["head_dim"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.dim).transpose(1, 2)
        q, k = (rotate(t, cos, sin).to(v.dtype) for t in (q, k))
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])


class TinyLlama(nn.Module):
    """The language model; the output matrix is the embedding."""

    def __init__(self, config: dict = CONFIG) -> None:
        super().__init__()
        self.model = Decoder(config)
        half = config["head_dim"] // 2
        frequency = config["rope_theta"] ** -(torch.arange(half) / half)
        angle = torch.arange(config["max_position_embeddings"])[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        std = config["initializer_range"]
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = math.sqrt(2 * config["num_hidden_layers"]) if residual else 1.0
                nn.init.normal_(parameter, std=std / depth)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, S, vocabulary) of tokens (B, S)."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean negative log-likelihood, in nats a token, of tokens (B, S + 1)."""
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def tokenizer_files() -> dict[str, dict]:
    """tokenizer.json and tokenizer_config.json of the byte vocabulary.

    A byte-level BPE without merges: the character that stands for a byte in
    such vocabularies has the byte's value as its id.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    characters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    special = {"<bos>": BOS, "<eos>": EOS, "<pad>": PAD, "<unk>": UNK}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    piece = {"id": "<bos>", "type_id": 0}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": text, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for text, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": piece}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": piece}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {characters[b]: b for b in range(256)} | special, "merges": []},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def save(model: TinyLlama, folder: pathlib.Path) -> None:
    """Write the folder of a Hugging Face model: weights (BF16), configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"config.json": CONFIG, "generation_config.json": GENERATION_CONFIG,
             **tokenizer_files()}
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        blob = values.view(torch.int16).numpy().astype("<i2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load(folder: pathlib.Path) -> TinyLlama:
    """The model of a folder written by `save`, its weights as FP32."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    state = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + o for o in entry["data_offsets"])
            values = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.bfloat16)
            state[name] = values.view(entry["shape"]).float()
    model = TinyLlama(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(state)
    return model


def read_tokens(path: pathlib.Path) -> Tensor:
    """Token ids (int16, 1-D) of a file of NUL-separated documents (.xz: packed).

    Every document becomes BOS, its bytes, EOS.
    """
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    values = np.frombuffer(data, dtype=np.uint8).astype(np.int16)
    breaks = np.flatnonzero(values == 0)
    values[breaks] = BOS
    inner = np.insert(values, breaks, EOS)
    return torch.from_numpy(np.concatenate(([BOS], inner, [EOS])).astype(np.int16))
