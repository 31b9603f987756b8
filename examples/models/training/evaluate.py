#!/usr/bin/env python3
"""Held-out bits per byte of a saved model, by kind of text, and samples.

    evaluate.py --model examples/models/tiny --data build/corpus/text

The held-out documents of one kind are joined (BOS, bytes, EOS each) and read
in windows of 2,048 tokens that do not overlap.  The bits of the bytes and of
the EOS marks are divided by the number of bytes; a BOS is given, not
predicted.  Weights are the saved BF16 values, computed with in FP32.
"""

from __future__ import annotations

import argparse
import math
import pathlib

import torch
import torch.nn.functional as F

from model import BOS, CONFIG, EOS, TinyLlama, load, read_tokens

KINDS = ("prose", "technical", "code")


@torch.no_grad()
def bits(model: TinyLlama, tokens: torch.Tensor, limit: int) -> tuple[float, int]:
    """Bits of tokens (1-D), and how many of them are bytes; at most `limit` tokens."""
    length = CONFIG["max_position_embeddings"]
    total, count = 0.0, 0
    for start in range(0, min(len(tokens), limit) - 1, length):
        window = tokens[start:start + length + 1].long()
        logits = model(window[None, :-1])[0].float()
        target = window[1:]
        nats = F.cross_entropy(logits, target, reduction="none").double()
        total += nats[target != BOS].sum().item() / math.log(2)
        count += int((target < BOS).sum())
    return total, count


@torch.no_grad()
def sample(model: TinyLlama, prompt: bytes, count: int, temperature: float,
           generator: torch.Generator) -> bytes:
    """At most `count` bytes after the prompt."""
    device = model.cos.device
    tokens = [BOS, *prompt]
    for _ in range(count):
        logits = model(torch.tensor([tokens], device=device))[0, -1].float().cpu()
        logits[BOS:EOS] = logits[EOS + 1:] = -math.inf
        token = int(torch.multinomial((logits / temperature).softmax(0), 1,
                                      generator=generator))
        if token == EOS:
            break
        tokens.append(token)
    return bytes(tokens[1 + len(prompt):])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("examples/models/tiny"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("build/corpus/text"),
                        help="folder with the files heldout-<kind>.bin")
    parser.add_argument("--prompts", type=pathlib.Path,
                        help="file of prompts, one a line, \\n for a new line")
    parser.add_argument("--bytes", type=int, default=400, help="bytes a sample")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--limit", type=int, default=1 << 62, help="tokens read of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    model = load(args.model).to(args.device)
    all_bits, all_bytes = 0.0, 0
    for kind in KINDS:
        tokens = read_tokens(args.data / f"heldout-{kind}.bin").to(args.device)
        total, count = bits(model, tokens, args.limit)
        all_bits, all_bytes = all_bits + total, all_bytes + count
        print(f"held-out {kind:10} {count:>9,} bytes  {total / count:.4f} bits/byte", flush=True)
    print(f"held-out {'all':10} {all_bytes:>9,} bytes  {all_bits / all_bytes:.4f} bits/byte",
          flush=True)
    if args.prompts:
        generator = torch.Generator().manual_seed(args.seed)
        for line in args.prompts.read_text(encoding="utf-8").splitlines():
            prompt = line.replace("\\n", "\n").encode()
            text = sample(model, prompt, args.bytes, args.temperature, generator)
            print("=" * 72, prompt.decode() + "\u2588" + text.decode(errors="replace"),
                  sep="\n", flush=True)


if __name__ == "__main__":
    main()
