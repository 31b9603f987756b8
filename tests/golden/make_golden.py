#!/usr/bin/env python3
"""What Hugging Face transformers computes, as the truth for the example engine (tests/unit/test_engine.c).

    make_golden.py [--out DIR] [--compare DIR] [--data DIR]
    make_golden.py --dump FILE --model DIR

The first form makes the golden files anew: three small random models with every variant that the engine supports
(DIR/models), and for each of them, for the shipped model and for the models of the test data a file
DIR/NAME.safetensors. With --compare they are compared with those of another folder; without --out they are only
compared, by default with the committed ones. The second form compares every page of
a dump that the engine wrote (kvsim-analyze --dump) with the cache of transformers for the same tokens.

Needs: pip install torch==2.13.0 transformers==5.24.0 safetensors numpy

A golden file holds, in float32 arithmetic:
  prompt            I32 [P]
  tokens            I32 [P + 200]  the prompt and what follows greedily
  logits            F32 [L, V]     of the prompt's last L positions
  sums.key, .value  F32 [layers, pages, 2]  of every page of 16 tokens of the cache of all tokens but the last one:
                    sum, and sum with alternating signs
  page.<layer>.<key|value>.<page>  F32 [16, H, D]  a few whole pages
"""
import argparse
import os
import shutil
import sys
import tempfile
import warnings

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

PAGE_TOKENS = 16
NEW_TOKENS = 200
LOGIT_ROWS = 8
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

TOLERANCE_LOGITS = 1e-3
TOLERANCE_PAGES = 1e-4
TOLERANCE_SUMS = 2e-3

TEXT = b"The library maps the file and checks every offset before it reads a single byte of it."


def random_model(kind_of_model, folder):
    """Write a small random model that uses what the trained ones do not."""
    common = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None, head_dim=8)
    if kind_of_model == "llama":
        # Biases, a head size that is not hidden/heads, untied, F16, in shards.
        config = transformers.LlamaConfig(num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False,
                                          rope_theta=5000.0, rms_norm_eps=1e-6, **common)
        kind, dtype, shard = transformers.LlamaForCausalLM, torch.float16, "12KB"
    elif kind_of_model == "mistral":
        config = transformers.MistralConfig(num_key_value_heads=1, sliding_window=None, tie_word_embeddings=False,
                                            rope_theta=10000.0, **common)
        kind, dtype, shard = transformers.MistralForCausalLM, torch.float32, "1GB"
    else:
        config = transformers.Qwen2Config(num_key_value_heads=4, tie_word_embeddings=True, rope_theta=1000000.0,
                                          **common)
        kind, dtype, shard = transformers.Qwen2ForCausalLM, torch.bfloat16, "1GB"
    generator = torch.Generator().manual_seed(len(kind_of_model))
    model = kind(config)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.1 * values if "norm" in key else
                            0.3 * values if key.endswith("bias") else
                            values * 1.5 / parameter.shape[-1] ** 0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)


def load_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                             local_files_only=True).eval()


def cache_layer(cache, layer):
    """Keys and values [tokens, H, D] of a layer."""
    entry = cache.layers[layer]
    return [x[0].permute(1, 0, 2).contiguous().numpy() for x in (entry.keys, entry.values)]


@torch.no_grad()
def golden(folder, prompt):
    model = load_model(folder)
    layers = model.config.num_hidden_layers
    cache = transformers.DynamicCache()
    tokens = list(prompt)
    margin = float("inf")
    out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    logits = out.logits[0]
    first_logits = logits[-LOGIT_ROWS:].numpy().copy()
    for i in range(NEW_TOKENS):
        best = torch.topk(logits[-1], 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        if i + 1 < NEW_TOKENS:
            logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache, use_cache=True).logits[0]
    arrays = {"prompt": np.array(prompt, np.int32), "tokens": np.array(tokens, np.int32), "logits": first_logits}
    pages = (len(tokens) - 1 + PAGE_TOKENS - 1) // PAGE_TOKENS
    for kind, name in enumerate(("key", "value")):
        sums = np.zeros((layers, pages, 2))
        for layer in range(layers):
            rows = cache_layer(cache, layer)[kind]
            assert len(rows) == len(tokens) - 1
            for page in range(pages):
                content = rows[page * PAGE_TOKENS:(page + 1) * PAGE_TOKENS]
                flat = content.astype(np.float64).ravel()
                sums[layer, page] = flat.sum(), flat[0::2].sum() - flat[1::2].sum()
                if (layer, page) in ((0, 0), (layers - 1, 0), (layers - 1, pages - 2)):
                    arrays[f"page.{layer}.{name}.{page}"] = content.copy()
        arrays[f"sums.{name}"] = sums.astype(np.float32)
    print(f"{folder}: {len(prompt)} + {NEW_TOKENS} tokens, smallest margin of a greedy choice {margin:.2g}")
    return arrays


def tolerance(name):
    if name.startswith("page."):
        return TOLERANCE_PAGES
    return {"logits": TOLERANCE_LOGITS, "sums.key": TOLERANCE_SUMS, "sums.value": TOLERANCE_SUMS}.get(name, 0)


def same(made, committed):
    """Compare two safetensors files; prints what differs."""
    if not os.path.exists(committed):
        print(f"{committed} is missing")
        return False
    ours, theirs = load_file(made), load_file(committed)
    good = ours.keys() == theirs.keys()
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            print(f"{committed}: {name} is {b.dtype}{b.shape}, now {a.dtype}{a.shape}")
            good = False
        elif a.size and np.abs(a.astype(np.float64) - b.astype(np.float64)).max() > tolerance(name):
            print(f"{committed}: {name} differs by {np.abs(a.astype(np.float64) - b.astype(np.float64)).max():g}")
            good = False
    return good


def same_model(made, committed):
    good = True
    for name in sorted(os.listdir(made)):
        path = os.path.join(committed, name)
        if not os.path.exists(path):
            print(f"{path} is missing")
            good = False
        elif open(os.path.join(made, name), "rb").read() != open(path, "rb").read():
            print(f"{path} differs")
            good = False
    return good


def make(out, compare, data):
    counts = {True: 0, False: 0, None: 0}
    jobs = [(name, os.path.join(out, "models", name), [1] + [(7 * i * i + 3) % 58 + 3 for i in range(40)])
            for name in ("llama", "mistral", "qwen2")]
    for name, folder, _ in jobs:
        shutil.rmtree(folder, ignore_errors=True)
        random_model(name, folder)
        if compare:
            counts[same_model(folder, os.path.join(compare, "models", name))] += 1
    jobs.append(("tiny", os.path.join(ROOT, "examples", "models", "tiny"), [256] + list(TEXT)))
    jobs.append(("llama30m", os.path.join(data, "llama30m"), [256] + list(TEXT)))
    jobs.append(("stories260k", os.path.join(data, "stories260k", "hf"),
                 [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421]))
    for name, folder, prompt in jobs:
        if not os.path.exists(os.path.join(folder, "config.json")):
            print(f"skipped: {folder} is not there")
            counts[None] += 1
            continue
        path = os.path.join(out, name + ".safetensors")
        save_file(golden(folder, prompt), path)
        os.chmod(path, 0o644)
        counts[same(path, os.path.join(compare, name + ".safetensors")) if compare else True] += 1
    return counts


@torch.no_grad()
def check_dump(path, folder):
    """Compare every key and value of a dump with the cache of one forward pass over its tokens."""
    counts = {True: 0, False: 0, None: 0}
    model = load_model(folder)
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        largest = {"key": 0.0, "value": 0.0}
        sequence = 0
        while f"seq.{sequence}.tokens" in names:
            tokens = file.get_tensor(f"seq.{sequence}.tokens").long()
            cache = transformers.DynamicCache()
            model(tokens[None], past_key_values=cache, use_cache=True)
            good = True
            for layer in range(model.config.num_hidden_layers):
                for kind, truth in zip(("key", "value"), cache_layer(cache, layer)):
                    rows = file.get_tensor(f"seq.{sequence}.layer.{layer}.{kind}").float().numpy()
                    worst = float(np.abs(rows - truth).max()) if rows.shape == truth.shape else float("inf")
                    largest[kind] = max(largest[kind], worst)
                    good = good and worst <= TOLERANCE_PAGES
            counts[good] += 1
            sequence += 1
    print(f"{path}: {sequence} sequences, largest difference of a key {largest['key']:.2g}, of a value "
          f"{largest['value']:.2g}")
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="folder to write to; default: none, only compare")
    parser.add_argument("--compare", help="folder with golden files to compare with")
    parser.add_argument("--data", default=os.environ.get("KVSIM_TEST_DATA", os.path.join(ROOT, "..", "shared", "data")),
                        help="folder of the test data")
    parser.add_argument("--dump", help="dump of the engine to check")
    parser.add_argument("--model", help="model of the dump")
    options = parser.parse_args()
    if (options.out and options.dump) or bool(options.dump) != bool(options.model):
        parser.error("give --out, or --dump and --model, or neither")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.dump:
        counts = check_dump(options.dump, options.model)
    elif options.out:
        os.makedirs(options.out, exist_ok=True)
        counts = make(options.out, options.compare, options.data)
    else:
        with tempfile.TemporaryDirectory() as out:
            counts = make(out, options.compare or HERE, options.data)
    print(f"make_golden: {counts[True]} passed, {counts[False]} failed, {counts[None]} skipped")
    return 1 if counts[False] or not counts[True] else 0


if __name__ == "__main__":
    sys.exit(main())
