#!/usr/bin/env python3
"""Engine `transformers` of kvsim-experiments: runs a causal language model with Hugging Face transformers.

    transformers_engine.py REQUEST FOLDER

REQUEST is a file of the schema kvsim.request.v1: the experiment. FOLDER receives dump.safetensors (kvsim.dump.v1, what
the model's cache holds for every prompt) and generation.json (kvsim.generation.v1, what was generated, and when).
docs/formats.md describes all three. Lines `progress DONE TOTAL` on standard output count tokens. On failure the last
line of standard error says what to do about it.

Needs: pip install torch transformers
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import os
import resource
import struct
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "numpy", "safetensors")

# Token ids that make a model byte-level: ids below are bytes, a text begins with the first and ends with the second.
BYTE_BOS, BYTE_EOS = 256, 257

# How many equal tokens show how keys are rotated, and the largest relative difference that rounding leaves.
PROBE_TOKENS = 64
PROBE_TOLERANCE = 0.02

# Names that a configuration has for the longest sequence.
LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")

# Types of scaled RoPE that kvsim.dump.v1 has words for, with their numbers.
SCALINGS = {
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}

# Layers of these types have keys and values for each token. Others need a cache that knows the model's configuration.
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

# Element types of a cache, and what safetensors calls them.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

PROGRESS_INTERVAL = 0.2

codecs.register_error("kvsim_bytes", lambda error: ("\ufffd", getattr(error, "start") + 1))


class EngineError(Exception):
    """What went wrong, in one line for the user."""


def one_line(text: object, most: int = 600) -> str:
    joined = " ".join(str(text).split())
    return joined if len(joined) <= most else joined[: most - 3] + "..."


# ---- What is asked for ----


class Request(NamedTuple):
    """An experiment as it will run; see kvsim.request.v1."""

    model: str
    prompts: list[str]
    cut_prompts: bool  # else a prompt that is too long is refused
    max_tokens: int
    max_model_len: int
    temperature: float
    top_p: float
    seed: int
    sequence_seeds: list[int]
    ignore_eos: bool
    page_tokens: int
    dtype: str
    threads: int  # 0: as torch likes
    ignored_fields: list[str]


def read_request(path: str) -> Request:
    try:
        with open(path, encoding="utf-8") as file:
            given = json.load(file)
    except (OSError, ValueError) as reason:
        raise EngineError(f"cannot read the request {path}: {reason}") from None
    if not isinstance(given, dict) or given.get("schema") != "kvsim.request.v1":
        raise EngineError(f"{path} is no request of the schema kvsim.request.v1")
    try:
        return Request(
            model=str(given["model"]),
            prompts=[str(text) for text in given["prompts"]],
            cut_prompts=given.get("long_prompts") == "cut",
            max_tokens=int(given["max_tokens"]),
            max_model_len=int(given.get("max_model_len") or 0),
            temperature=float(given.get("temperature", 0)),
            top_p=float(given.get("top_p", 1)),
            seed=int(given.get("seed", 0)),
            sequence_seeds=[int(seed) for seed in given["sequence_seeds"]],  # of 64 bits, as signed numbers
            ignore_eos=bool(given.get("ignore_eos", True)),
            page_tokens=int(given.get("page_tokens") or 16),
            dtype=str(given.get("dtype") or "auto"),
            threads=int(given.get("threads") or 0),
            ignored_fields=[str(name) for name in given.get("ignored_fields", [])],
        )
    except (KeyError, TypeError, ValueError) as reason:
        raise EngineError(f"{path}: {type(reason).__name__}: {reason}") from None


def import_packages() -> None:
    """Import what the engine needs into this module, or say what is missing and how to get it."""
    python = f"{sys.executable} ({sys.version.split()[0]})"
    if sys.version_info < (3, 10):
        raise EngineError(f"engine: the Python {python} is too old; name one from 3.10 on with --python")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(
            f"engine: the Python {python} lacks {', '.join(missing)}. Install: python3 -m venv ~/kvsim-python && "
            "~/kvsim-python/bin/pip install torch transformers; then give --python ~/kvsim-python/bin/python "
            "or set KVSIM_PYTHON to it")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, module in (("np", "numpy"), ("torch", "torch"), ("transformers", "transformers")):
        try:
            globals()[name] = importlib.import_module(module)
        except Exception as reason:  # A broken installation raises whatever its parts raise.
            raise EngineError(f"engine: the Python {python} cannot import {module}: {one_line(reason)}") from reason
    warnings.simplefilter("ignore", FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


# ---- The model ----


class Model(NamedTuple):
    """A loaded model with what is needed to run it."""

    net: Any
    config: Any  # of the language model
    tokenizer: Any  # None: the ids are bytes, or prompts are lists of ids
    byte_level: bool
    name: str
    architecture: str
    device: str
    vocabulary: int
    context: int | None  # longest sequence, None if the model sets no bound
    eos: set[int]
    cache_argument: str  # name of the cache in its forward pass
    keeps_last_logits: bool  # its forward pass takes logits_to_keep
    notes: list[str]


@contextlib.contextmanager
def explained(what: str, name: str) -> Iterator[None]:
    """Turn what transformers raises into one line."""
    try:
        yield
    except EngineError:
        raise
    except ImportError as reason:
        raise EngineError(f"model: {name}: {what} needs another Python package: {one_line(reason, 400)}") from reason
    except Exception as reason:
        text = one_line(reason, 400)
        if "trust_remote_code" in str(reason):
            text = "it comes with Python code of its own, which this engine does not run"
        elif memory_ran_out(reason):
            text = f"out of memory; take a smaller model or another --dtype ({text})"
        raise EngineError(f"model: {name}: {what}: {text}") from reason


def memory_ran_out(reason: BaseException) -> bool:
    text = str(reason).lower()
    return isinstance(reason, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def first_number(config: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def token_ids(*values: Any) -> set[int]:
    """Ids of the first value that is set: a number or a list of them."""
    for value in values:
        if value is not None:
            return {int(x) for x in (value if isinstance(value, (list, tuple)) else [value])}
    return set()


def quantised(name: str, where: str) -> EngineError:
    return EngineError(f"model: {name}: its cache is quantised ({where}); quantised caches are not supported, since "
                       "kvsim.dump.v1 has no place for their scales")


def refuse_caches(config: Any, generation: Any, name: str) -> None:
    """Refuse by name what keeps something else than keys and values of each token."""
    latent = next((key for key in ("kv_lora_rank", "qk_rope_head_dim") if getattr(config, key, None)), None)
    if latent is not None:
        raise EngineError(
            f"model: {name}: multi-head latent attention ({latent}) is not supported: an engine keeps one latent for "
            "each token, which transformers expands to keys and values of different sizes, so its cache is not what "
            "an engine stores")
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None and not isinstance(quantization, dict):
        quantization = quantization.to_dict()
    if quantization and quantization.get("kv_cache_scheme"):
        raise quantised(name, "kv_cache_scheme of its quantization_config")
    if getattr(generation, "cache_implementation", None) == "quantized":
        raise quantised(name, "cache_implementation of its generation_config.json")
    if getattr(config, "is_encoder_decoder", False):
        raise EngineError(f"model: {name}: an encoder with a decoder, not a causal language model")


def load_generation_config(name: str, local: bool) -> Any:
    try:
        return transformers.GenerationConfig.from_pretrained(name, local_files_only=local)
    except Exception:  # Most folders that were written by hand have none.
        return None


def choose_dtype(wanted: str, device: str) -> Any:
    if wanted == "auto":
        return torch.float32 if device == "cpu" else "auto"
    if wanted not in DTYPES:
        raise EngineError(f"dtype: '{wanted}' is none of auto, {', '.join(DTYPES)}")
    return getattr(torch, wanted)


def load_weights(name: str, local: bool, config: Any, dtype: Any, device: str) -> Any:
    version = tuple(int(x) for x in transformers.__version__.split(".")[:2])
    keyword = "dtype" if version >= (4, 56) else "torch_dtype"
    with explained("its weights cannot be loaded", name):
        net, loading = transformers.AutoModelForCausalLM.from_pretrained(
            name, config=config, local_files_only=local, output_loading_info=True, **{keyword: dtype})
        missing = sorted(loading["missing_keys"])
        if missing:
            raise EngineError(f"model: {name}: its files lack {len(missing)} weights ({', '.join(missing[:3])}"
                              f"{', ...' if len(missing) > 3 else ''}), so it would run on random numbers")
        # Quantised weights are where they belong already.
        return (net if getattr(net, "is_quantized", False) else net.to(device)).eval()


def load_tokenizer(name: str, local: bool) -> Any:
    """The model's tokenizer; None for a folder that has none."""
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if local and not any(os.path.exists(os.path.join(name, file)) for file in files):
        return None
    hint = " (a SentencePiece file: pip install protobuf sentencepiece)" if local and os.path.exists(
        os.path.join(name, "tokenizer.model")) else ""
    with explained(f"its tokenizer cannot be loaded{hint}", name):
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)


def load_model(request: Request) -> Model:
    name, local = request.model, os.path.isdir(request.model)
    with explained("its configuration cannot be read", name):
        whole = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
    config = whole.get_text_config(decoder=True)
    generation = load_generation_config(name, local)
    refuse_caches(config, generation, name)
    bos, eos = (getattr(config, name, None) for name in ("bos_token_id", "eos_token_id"))
    byte_level = bos == BYTE_BOS and token_ids(eos) == {BYTE_EOS}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = None if byte_level else load_tokenizer(name, local)
    net = load_weights(name, local, whole, choose_dtype(request.dtype, device), device)
    context = first_number(config, LENGTH_NAMES)
    if context is not None and request.max_model_len > context:
        raise EngineError(f"max_model_len: {request.max_model_len} is more than the {context} tokens that model {name} "
                          "takes")
    arguments = inspect.signature(net.forward).parameters
    notes = []
    if "sliding_attention" in layer_types(config) or getattr(config, "sliding_window", None):
        notes.append("layers with a sliding window keep all tokens here; an engine may drop those outside the window")
    return Model(
        net=net, config=config, tokenizer=tokenizer, byte_level=byte_level, device=device, notes=notes,
        name=os.path.basename(os.path.abspath(name)) if local else name,
        architecture=type(net).__name__,
        vocabulary=int(config.vocab_size),
        context=context,
        eos=token_ids(getattr(generation, "eos_token_id", None), eos),
        cache_argument="cache" if "cache" in arguments else "past_key_values",
        keeps_last_logits="logits_to_keep" in arguments)


# ---- Tokens ----


class Prompt(NamedTuple):
    """A prompt on its way through the model."""

    text: str
    ids: list[int]
    cut: int  # tokens that did not fit and were cut off
    limit: int  # tokens at which its sequence ends
    by_context: bool  # the limit is that of the context, not of max_tokens


def parse_ids(model: Model, text: str, number: int) -> list[int]:
    """Ids of a prompt for a model without a tokenizer: whole numbers between blanks."""
    words = text.split()
    if not words or not all(word.isascii() and word.isdigit() and int(word) < model.vocabulary for word in words):
        raise EngineError(f"prompts: prompt {number}: model {model.name} has no tokenizer beside its weights; add its "
                          f"files, or give the prompt as token ids (0 to {model.vocabulary - 1})")
    return [int(word) for word in words]


def tokenize(model: Model, text: str, number: int) -> list[int]:
    if model.byte_level:
        return [BYTE_BOS, *text.encode("utf-8", "surrogateescape")]
    if model.tokenizer is None:
        return parse_ids(model, text, number)
    ids = [int(x) for x in model.tokenizer(text)["input_ids"]]
    if not ids:
        ids = sorted(token_ids(getattr(model.config, "bos_token_id", None)))[:1]
    if not ids:
        raise EngineError(f"prompts: prompt {number} is empty, and model {model.name} has no token to begin with")
    beyond = max(ids)
    if beyond >= model.vocabulary:
        raise EngineError(f"prompts: prompt {number}: the tokenizer gives token {beyond}, the model knows "
                          f"{model.vocabulary}")
    return ids


def detokenize(model: Model, ids: list[int]) -> str:
    """Text without NUL, which the texts of kvsim cannot hold."""
    if model.byte_level:
        # As the embedded engine does: U+FFFD for each byte that is no text.
        text = bytes(x for x in ids if x < BYTE_BOS).decode("utf-8", "kvsim_bytes")
    elif model.tokenizer is None:
        text = " ".join(str(x) for x in ids)
    else:
        text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
    return text.replace("\0", "\ufffd")


def prepare_prompt(model: Model, request: Request, number: int) -> Prompt:
    text = request.prompts[number]
    ids = tokenize(model, text, number + 1)
    context = request.max_model_len or model.context
    cut = 0
    if context is not None and len(ids) >= context:
        if not request.cut_prompts:
            raise EngineError(f"prompts: prompt {number + 1} has {len(ids)} tokens, which leave no room for a new one "
                              f"in a context of {context}; shorten it, or let it be cut with --long-prompts cut")
        room = max(1, context - request.max_tokens)
        cut = len(ids) - room
        ids = ids[:room]
    wanted = len(ids) + request.max_tokens
    by_context = context is not None and context < wanted
    return Prompt(text, ids, cut, context if by_context else wanted, by_context)


class Sampler:
    """Chooses tokens exactly as the embedded engine does (examples/engine/sample.c): equal seeds, equal tokens."""

    def __init__(self, temperature: float, top_p: float, seed: int):
        self.temperature = temperature
        self.top_p = top_p
        self.state = seed & 0xFFFFFFFFFFFFFFFF

    def uniform(self) -> float:
        """SplitMix64 (Steele, Lea, Flood 2014): a number in [0, 1) with 53 random bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def choose(self, logits: Any) -> int:
        """The next token after float32 logits [vocabulary]; what is no number is never chosen."""
        numbers = np.where(np.isnan(logits), -np.inf, logits)
        best = int(np.argmax(numbers))  # the smallest id of equal ones
        if not self.temperature > 0:
            return best
        ids = np.arange(len(numbers))
        nucleus = 0.0 < self.top_p < 1.0
        if nucleus:
            ids = np.argsort(-numbers, kind="stable")
        with np.errstate(invalid="ignore"):
            weights = np.exp((numbers[ids].astype(np.float64) - float(numbers[best])) / self.temperature)
        sums = np.cumsum(np.nan_to_num(weights))
        count = len(sums)
        if nucleus:
            count = min(count, int(np.searchsorted(sums, self.top_p * sums[-1], side="left")) + 1)
        chosen = int(np.searchsorted(sums[:count], self.uniform() * sums[count - 1], side="right"))
        return int(ids[min(chosen, count - 1)])


# ---- The cache ----


class CacheFacts(NamedTuple):
    """What the caches of all sequences have in common."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    element_bytes: int
    rope: dict[str, str]  # metadata of the dump

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.element_bytes


def layer_types(config: Any) -> set[str]:
    types = getattr(config, "layer_types", None)
    return set(types) if isinstance(types, (list, tuple)) else set()


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def new_cache(model: Model) -> Any:
    """A cache that keeps every token, also in layers with a sliding window, where the model allows it."""
    if layer_types(model.config) <= ATTENTION_LAYERS:
        return transformers.DynamicCache()
    return transformers.DynamicCache(config=model.config)


def cache_layers(cache: Any, model: Model, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [1, H, tokens, D] of every layer that has some."""
    entries = getattr(cache, "layers", None)
    if entries is None:  # transformers before 4.54
        if not hasattr(cache, "key_cache"):
            raise EngineError(f"model: {model.name}: its cache ({type(cache).__name__}) holds no keys and values")
        pairs = list(zip(cache.key_cache, cache.value_cache))
    else:
        for entry in entries:
            if "quantized" in type(entry).__name__.lower() or hasattr(entry, "_quantized_keys"):
                raise quantised(model.name, type(entry).__name__)
        pairs = [(getattr(entry, "keys", None), getattr(entry, "values", None)) for entry in entries]
    pairs = [(k, v) for k, v in pairs if torch.is_tensor(k) and torch.is_tensor(v) and k.numel() > 0]
    if not pairs:
        raise EngineError(f"model: {model.name}: its cache ({type(cache).__name__}) holds no keys and values; models "
                          "without attention, such as state space models, have no pages to compare")
    first = pairs[0][0]
    for layer, (keys, values) in enumerate(pairs):
        if keys.shape != values.shape:
            raise EngineError(f"model: {model.name}: layer {layer} has keys {list(keys.shape)} and values "
                              f"{list(values.shape)}, as multi-head latent attention has; pages need equal shapes")
        if keys.dim() != 4 or keys.shape[0] != 1 or keys.shape[2] != tokens:
            raise EngineError(f"model: {model.name}: layer {layer} of its cache has the shape {list(keys.shape)}, not "
                              f"[1, heads, {tokens}, head size]; such caches are not supported")
        if keys.shape != first.shape or keys.dtype != first.dtype or values.dtype != first.dtype:
            raise EngineError(f"model: {model.name}: layer {layer} of its cache has {list(keys.shape)} of "
                              f"{dtype_name(keys)}, layer 0 {list(first.shape)} of {dtype_name(first)}; a dump needs "
                              "equal layers")
    if dtype_name(first) not in DTYPES:
        raise EngineError(f"model: {model.name}: a cache of {first.dtype} is not supported, only of float32, float16 "
                          "and bfloat16")
    return pairs


def forward(model: Model, ids: list[int], cache: Any) -> Any:
    """Run tokens through the model, which appends to the cache: the logits of the last one as float32."""
    given = {model.cache_argument: cache, "use_cache": True}
    if model.keeps_last_logits:
        given["logits_to_keep"] = 1
    out = model.net(input_ids=torch.tensor([ids], device=model.device), **given)
    return out.logits[0, -1].float().cpu().numpy()


# ---- How keys are rotated ----


def model_frequencies(model: Model, head_dim: int) -> list[Any]:
    """Angles in a token step of each channel pair, for every RoPE that the model has; float64."""
    found = []
    for name, buffer in model.net.named_buffers():
        if not name.endswith("inv_freq") or buffer.dim() != 1 or not 0 < len(buffer) <= head_dim // 2:
            continue
        values = buffer.detach().float().cpu().numpy().astype(np.float64)
        if not any(len(other) == len(values) and np.allclose(other, values, rtol=1e-6, atol=0) for other in found):
            found.append(values)
    if not found:  # GPT-J and CodeGen have a table instead.
        dims = first_number(model.config, ("rotary_dim",)) or head_dim
        if dims <= head_dim and dims % 2 == 0:
            found.append(10000.0 ** (-np.arange(0, dims, 2) / dims))
    return found


def residual(keys: Any, frequencies: Any, style: str) -> float:
    """How much de-rotated keys [tokens, H, D] of one token differ from each other, relative to their size."""
    if style == "none":
        turned = keys
    else:
        pairs = len(frequencies)
        first = slice(0, pairs) if style == "half" else slice(0, 2 * pairs, 2)
        second = slice(pairs, 2 * pairs) if style == "half" else slice(1, 2 * pairs, 2)
        angles = np.arange(len(keys))[:, None, None] * frequencies
        cosine, sine = np.cos(angles), np.sin(angles)
        turned = keys.copy()
        turned[..., first] = keys[..., first] * cosine + keys[..., second] * sine
        turned[..., second] = keys[..., second] * cosine - keys[..., first] * sine
    size = float(np.sqrt(np.mean(keys**2)))
    return float(np.sqrt(np.mean((turned - turned[:1]) ** 2))) / size if size > 0 else math.inf


def describe_frequencies(config: Any, frequencies: Any) -> dict[str, str] | None:
    """Metadata that says these frequencies; None if kvsim.dump.v1 cannot."""
    dims = 2 * len(frequencies)
    stated = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    theta = stated.get("rope_theta") or getattr(config, "rope_theta", None) or getattr(config, "rotary_emb_base", None)
    exponents = -np.arange(0, dims, 2) / dims
    fitted = float(frequencies[-1] ** (1 / exponents[-1])) if dims > 2 else 10000.0
    for base in (theta, 10000.0, float(f"{fitted:.6g}")):
        if isinstance(base, (int, float)) and np.allclose(float(base) ** exponents, frequencies, rtol=1e-4, atol=0):
            return {"rope_theta": repr(float(base))}
    kind = stated.get("rope_type") or stated.get("type")
    if kind not in SCALINGS or not isinstance(theta, (int, float)):
        return None
    scaling: dict[str, Any] = {"rope_type": kind}
    for name in SCALINGS[kind]:
        value = stated.get(name)
        if value is None and name == "original_max_position_embeddings":
            value = getattr(config, name, None) or getattr(config, "max_position_embeddings", None)
        if value is not None:
            scaling[name] = value
    return {"rope_theta": repr(float(theta)), "rope_scaling": json.dumps(scaling)}


def find_rotation(model: Model, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, str]:
    """
    Metadata that says how keys are rotated, measured on the model itself. A text of equal tokens makes every position
    look the same to every layer but for the rotation, so keys before RoPE are equal: the frequencies and the pairing of
    channels that make the stored ones equal again are those of the model, whatever its kind.
    """
    head_dim = layers[0][0].shape[-1]
    frequencies_known = model_frequencies(model, head_dim)
    candidates = [(None, "none"), *itertools.product(frequencies_known, ("half", "interleaved"))]
    chosen = []
    worst = 0.0
    for keys, _ in layers:
        rows = keys[0].permute(1, 0, 2).double().cpu().numpy()
        residuals = [residual(rows, values, style) for values, style in candidates]
        chosen.append(int(np.argmin(residuals)))
        if len(chosen) == 1:
            worst = residuals[chosen[0]]
    frequencies, style = candidates[chosen[0]]
    if worst > PROBE_TOLERANCE:
        # Positions are told apart in another way: learned ones, for example, or a rotation that is not known.
        if claims_rotation(model.config):
            model.notes.append("how the keys are rotated could not be found: views that undo it are left out")
        return {"rope_applied": "false"}
    if len(set(chosen)) > 1:
        model.notes.append("the layers are not all rotated alike: views that undo the rotation are left out")
        return {"rope_applied": "false"}
    if style == "none":
        return {"rope_applied": "false", "rope_style": "none"}
    said = describe_frequencies(model.config, frequencies)
    if said is None:
        model.notes.append("the rotation is one that kvsim.dump.v1 cannot say: views that undo it are left out")
        return {"rope_applied": "false"}
    dims = {} if 2 * len(frequencies) == head_dim else {"rope_dims": str(2 * len(frequencies))}
    return {"rope_applied": "true", "rope_style": style, **dims, **said}


def claims_rotation(config: Any) -> bool:
    return any(getattr(config, name, None) for name in ("rope_parameters", "rope_scaling", "rope_theta", "rotary_dim"))


def probe(model: Model, prompts: list[Prompt]) -> CacheFacts:
    """Run a text of equal tokens: what the cache looks like, and how keys are rotated."""
    bounds = [PROBE_TOKENS] + ([model.context] if model.context else [])
    count = min(bounds)
    with explained("it cannot be run", model.name):
        cache = new_cache(model)
        forward(model, [prompts[0].ids[-1]] * count, cache)
    layers = cache_layers(cache, model, count)
    left_out = int(getattr(model.config, "num_hidden_layers", len(layers))) - len(layers)
    if left_out > 0:
        model.notes.append(f"{left_out} layers have no keys and values of their own and are left out; the others are "
                           "numbered from 0")
    keys = layers[0][0]
    return CacheFacts(len(layers), keys.shape[1], keys.shape[3], dtype_name(keys), keys.element_size(),
                      find_rotation(model, layers))


# ---- Generation ----


class Progress:
    """Tells the parent how far the work is."""

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.shown = 0.0

    def add(self, tokens: int, unused: int = 0) -> None:
        """Count tokens that are in the cache now, and those of the total that will not come."""
        self.done += tokens
        self.total -= unused
        now = time.monotonic()
        if now - self.shown >= PROGRESS_INTERVAL or self.done == self.total:
            self.shown = now
            print(f"progress {self.done} {self.total}", flush=True)


class Sequence(NamedTuple):
    """What became of a prompt."""

    output: list[int]
    moments: list[float]  # seconds from the start of the sequence to each output token
    prefill_seconds: float
    seconds: float
    finish: str
    cache: Any
    cached: list[int]  # tokens whose keys and values are in the cache


def generate(model: Model, request: Request, prompt: Prompt, seed: int, progress: Progress) -> Sequence:
    """Run one sequence. As in an engine, the last token that is chosen does not enter the cache."""
    sampler = Sampler(request.temperature, request.top_p, seed)
    tokens = list(prompt.ids)
    moments: list[float] = []
    finish = "context" if prompt.by_context else "length"
    start = time.perf_counter()
    cache = new_cache(model)
    logits = forward(model, tokens, cache)
    prefill_seconds = time.perf_counter() - start
    progress.add(len(tokens))
    while len(tokens) < prompt.limit:
        token = sampler.choose(logits)
        moments.append(time.perf_counter() - start)
        tokens.append(token)
        if token in model.eos and not request.ignore_eos:
            finish = "eos"
            break
        if len(tokens) < prompt.limit:
            logits = forward(model, [token], cache)
            progress.add(1)
    seconds = time.perf_counter() - start
    cached = tokens[:-1] if moments else tokens
    progress.add(0, sequence_work(prompt) - len(cached))
    return Sequence(tokens[len(prompt.ids):], moments, prefill_seconds, seconds, finish, cache, cached)


def sequence_work(prompt: Prompt) -> int:
    """Tokens that a sequence computes unless it ends early."""
    return max(len(prompt.ids), prompt.limit - 1)


def sequence_document(model: Model, prompt: Prompt, ran: Sequence) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "prompt_tokens": len(prompt.ids),
        "prompt_cut": prompt.cut,
        "output": detokenize(model, ran.output),
        "output_tokens": ran.output,
        "prompt_ids": prompt.ids,
        "first_token_seconds": ran.moments[0] if ran.moments else None,
        "token_seconds": [b - a for a, b in itertools.pairwise(ran.moments)],
        "finish": ran.finish,
    }


# ---- Files ----


class DumpWriter:
    """
    Writes kvsim.dump.v1 one sequence after the other, so that only one cache is in memory. Room for the header is kept
    at the front, enough for the longest that the sequences can become.
    """

    def __init__(self, path: str, facts: CacheFacts, metadata: dict[str, str], longest: list[int]):
        self.facts = facts
        self.metadata = metadata
        self.lengths: list[int] = []
        self.room = -(-len(self.header(longest)) // 8) * 8
        self.file = open(path, "wb")
        self.file.seek(8 + self.room)

    def header(self, lengths: list[int]) -> bytes:
        facts = self.facts
        entries: dict[str, Any] = {"__metadata__": self.metadata}
        offset = 0

        def add(name: str, dtype: str, shape: list[int], size: int) -> None:
            nonlocal offset
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size

        for s, length in enumerate(lengths):
            add(f"seq.{s}.tokens", "I32", [length], 4 * length)
            shape, dtype = [length, facts.kv_heads, facts.head_dim], DTYPES[facts.dtype]
            for layer in range(facts.layers):
                for kind in ("key", "value"):
                    add(f"seq.{s}.layer.{layer}.{kind}", dtype, shape, math.prod(shape) * facts.element_bytes)
        return json.dumps(entries, separators=(",", ":")).encode()

    def add(self, tokens: list[int], layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.file.write(np.array(tokens, "<i4").tobytes())
        for pair in layers:
            for rows in pair:
                flat = rows[0].permute(1, 0, 2).contiguous().cpu()
                self.file.write(flat.view(torch.uint8).numpy().tobytes())
        self.lengths.append(len(tokens))

    def close(self) -> None:
        text = self.header(self.lengths)
        self.file.seek(0)
        self.file.write(struct.pack("<Q", self.room) + text.ljust(self.room))
        self.file.close()


def dump_metadata(model: Model, request: Request, facts: CacheFacts) -> dict[str, str]:
    prompts = ["" if "\0" in text else text for text in request.prompts]
    return {
        "format": "kvsim.dump.v1", "model": model.name, "layers": str(facts.layers), "kv_heads": str(facts.kv_heads),
        "head_dim": str(facts.head_dim), "page_tokens": str(request.page_tokens), **facts.rope,
        "sequences": str(len(prompts)), "prompts": json.dumps(prompts),
    }


def model_document(model: Model, facts: CacheFacts) -> dict[str, Any]:
    return {
        "name": model.name,
        "architecture": model.architecture,
        "layers": facts.layers,
        "kv_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "dtype": facts.dtype,
        "parameters": sum(x.numel() for x in model.net.parameters()),
        "max_position": model.context,
        "vocabulary": model.vocabulary,
    }


def run(request: Request, folder: str) -> None:
    name = request.model
    if not os.path.isdir(name) and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise EngineError(f"model: {name}: no such folder")
    import_packages()
    torch.set_grad_enabled(False)
    if request.threads > 0:
        torch.set_num_threads(request.threads)
    model = load_model(request)
    prompts = [prepare_prompt(model, request, i) for i in range(len(request.prompts))]
    facts = probe(model, prompts)
    progress = Progress(sum(sequence_work(prompt) for prompt in prompts))
    writer = DumpWriter(os.path.join(folder, "dump.safetensors"), facts, dump_metadata(model, request, facts),
                        [prompt.limit for prompt in prompts])
    sequences = []
    ran_all = []
    start = time.perf_counter()
    spent_writing = 0.0
    for number, (prompt, seed) in enumerate(zip(prompts, request.sequence_seeds)):
        with explained(f"prompt {number + 1} failed", model.name):
            ran = generate(model, request, prompt, seed, progress)
        begin = time.perf_counter()
        writer.add(ran.cached, cache_layers(ran.cache, model, len(ran.cached)))
        sequences.append(sequence_document(model, prompt, ran))
        ran_all.append(ran._replace(cache=None))
        spent_writing += time.perf_counter() - begin
    wall = time.perf_counter() - start - spent_writing
    writer.close()
    prefill_seconds = sum(ran.prefill_seconds for ran in ran_all)
    document = {
        "schema": "kvsim.generation.v1",
        "engine": "transformers",
        "engine_version": f"transformers {transformers.__version__}, torch {torch.__version__}, {model.device}",
        "model": model_document(model, facts),
        "page_tokens": request.page_tokens,
        "seed": request.seed,
        "sequences": sequences,
        "timing": {
            "prefill_tokens": sum(len(prompt.ids) for prompt in prompts),
            "prefill_seconds": prefill_seconds,
            "decode_tokens": sum(max(len(ran.output) - 1, 0) for ran in ran_all),
            "decode_seconds": sum(ran.seconds for ran in ran_all) - prefill_seconds,
            "wall_seconds": wall,
        },
        "memory": {
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "kv_reserved_bytes": None,
            "kv_used_bytes": sum(len(ran.cached) for ran in ran_all) * facts.token_bytes,
            "kv_partial_lost_bytes": None,
            "kv_prefix_shared_bytes": None,
        },
        "ignored_fields": request.ignored_fields,
        "notes": model.notes,
    }
    with open(os.path.join(folder, "generation.json"), "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("request", metavar="REQUEST", help="file of the schema kvsim.request.v1")
    parser.add_argument("folder", metavar="FOLDER", help="folder for dump.safetensors and generation.json")
    options = parser.parse_args()
    try:
        run(read_request(options.request), options.folder)
        return 0
    except EngineError as reason:
        print(f"error: {one_line(reason)}", file=sys.stderr)
    except OSError as reason:
        print(f"error: cannot write to {options.folder}: {one_line(reason)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
    except Exception as reason:
        traceback.print_exc()
        out = "out of memory" if memory_ran_out(reason) else f"{type(reason).__name__}: {one_line(reason)}"
        print(f"error: {out}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
