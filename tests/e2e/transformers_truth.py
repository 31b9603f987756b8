#!/usr/bin/env python3
"""What test_experiments_engines.py asks of torch and Hugging Face transformers, run by the Python that has them.

    transformers_truth.py make FOLDER
    transformers_truth.py check [MODEL RUN]...

`make` writes small models with random weights into FOLDER, one folder for each kind, and models that must be refused.
`check` compares a run of the engine `transformers` (generation.json and dump.safetensors in RUN) with what transformers
does by itself: greedy tokens with `generate`, keys and values with one forward pass over the tokens. It prints, for
each pair of folders, the largest difference and the dump's metadata as a line of JSON.
"""
from __future__ import annotations

import json
import os
import sys
import warnings

import tokenizers
import torch
import transformers
from safetensors import safe_open

COMMON = dict(vocab_size=260, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512,
              bos_token_id=256, eos_token_id=257, pad_token_id=258)
LLAMA = dict(COMMON, intermediate_size=96, num_key_value_heads=2)

MODELS = {
    # A quarter of the channels is rotated; no grouped heads.
    "gpt_neox": ("gpt_neox", dict(COMMON, intermediate_size=96, rotary_pct=0.25)),
    # Grouped heads, biases, scaled RoPE.
    "qwen2": ("qwen2", dict(LLAMA, rope_parameters=dict(
        rope_type="yarn", rope_theta=50000.0, factor=4.0, original_max_position_embeddings=128))),
    "llama3": ("llama", dict(LLAMA, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64))),
    # Neighbouring channels are paired, in a model whose frequencies are not among its buffers.
    "gptj": ("gptj", dict(vocab_size=260, n_embd=64, n_layer=2, n_head=4, n_positions=512, rotary_dim=8,
                          bos_token_id=256, eos_token_id=257)),
    # Learned positions; none at all.
    "gpt2": ("gpt2", dict(vocab_size=260, n_embd=64, n_layer=2, n_head=4, n_positions=512, bos_token_id=256,
                          eos_token_id=257)),
    "mpt": ("mpt", dict(vocab_size=260, d_model=64, n_layers=2, n_heads=4, max_seq_len=512, bos_token_id=256,
                        eos_token_id=257)),
    # Layers with a window of 16 tokens, rotated in another way than the others.
    "gemma3": ("gemma3_text", dict(LLAMA, head_dim=16, sliding_window=16, num_hidden_layers=6)),
}


def write_model(folder: str, kind: str, settings: dict) -> None:
    torch.manual_seed(len(kind))
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)


def write_tokenizer(folder: str) -> None:
    """A model with a tokenizer of its own: a token for each word."""
    write_model(folder, *MODELS["gpt_neox"])
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["bos_token_id"], config["eos_token_id"] = 0, 1
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    words = ["<s>", "</s>", "<unk>", "the", "cat", "sat", "on", "mat"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                         unk_token="<unk>").save_pretrained(folder)


def make(folder: str) -> None:
    for name, (kind, settings) in MODELS.items():
        write_model(os.path.join(folder, name), kind, settings)
    write_tokenizer(os.path.join(folder, "gpt_neox_words"))
    latent = transformers.AutoConfig.for_model("deepseek_v3", num_hidden_layers=2, vocab_size=260)
    latent.architectures = ["DeepseekV3ForCausalLM"]
    latent.save_pretrained(os.path.join(folder, "latent"))
    quantised = os.path.join(folder, "quantised")
    write_model(quantised, "llama", LLAMA)
    transformers.GenerationConfig(cache_implementation="quantized").save_pretrained(quantised)
    write_model(os.path.join(folder, "no_attention"), "mamba",
                dict(vocab_size=260, hidden_size=32, num_hidden_layers=2, bos_token_id=256, eos_token_id=257))
    broken = os.path.join(folder, "missing_weights")
    write_model(broken, "llama", dict(LLAMA, num_hidden_layers=1))
    with open(os.path.join(broken, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["num_hidden_layers"] = 2
    with open(os.path.join(broken, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


@torch.no_grad()
def check(folder: str, run: str) -> dict:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with open(os.path.join(run, "generation.json"), encoding="utf-8") as file:
        generation = json.load(file)
    worst = 0.0
    different = []
    with safe_open(os.path.join(run, "dump.safetensors"), "pt") as dump:
        for number, sequence in enumerate(generation["sequences"]):
            prompt = torch.tensor([sequence["prompt_ids"]])
            count = len(sequence["output_tokens"])
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count,
                                 min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
            tokens = dump.get_tensor(f"seq.{number}.tokens").long()
            all_tokens = sequence["prompt_ids"] + sequence["output_tokens"]
            if out[0].tolist() != all_tokens or tokens.tolist() != all_tokens[:-1]:
                different.append(number)
            cache = transformers.DynamicCache()
            model(tokens[None], past_key_values=cache, use_cache=True)
            for layer, entry in enumerate(cache.layers):
                for kind, truth in (("key", entry.keys), ("value", entry.values)):
                    rows = dump.get_tensor(f"seq.{number}.layer.{layer}.{kind}").float()
                    truth = truth[0].permute(1, 0, 2)
                    worst = max(worst, float((rows - truth).abs().max()) if rows.shape == truth.shape else float("inf"))
        metadata = dump.metadata()
    return {"sequences": len(generation["sequences"]), "different": different, "worst": worst, "metadata": metadata}


def main() -> int:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
        make(sys.argv[2])
    elif sys.argv[1:2] == ["check"] and len(sys.argv) % 2 == 0:
        for folder, run in zip(sys.argv[2::2], sys.argv[3::2]):
            print(json.dumps(check(folder, run)))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
