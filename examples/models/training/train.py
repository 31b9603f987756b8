#!/usr/bin/env python3
"""Train the tiny byte-level model for a given wall-clock time and save it.

    train.py --data build/corpus/text --out build/tiny --seconds 420

The loss is printed in bits a token (a token is a byte or a document mark).
A pass cuts the text into windows of 2,048 tokens at a fresh random phase and
takes each once, in random order.  The learning rate depends on the time that
has passed: a short warm-up, then a cosine to zero.  The weights are FP32
while training (BF16 autocast on a GPU) and are saved as BF16.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from model import CONFIG, TinyLlama, load, read_tokens, save

WARMUP_STEPS = 200


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made nearly orthogonal.

    Matrices of one shape are handled as one batch.  An update is scaled to the
    root mean square of a typical AdamW update (0.2), so that both optimizers
    take the same learning rate and weight decay.
    """

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float,
                 momentum: float = 0.95) -> None:
        shapes = sorted({tuple(m.shape) for m in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == s]} for s in shapes]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay,
                                  "momentum": momentum})

    @staticmethod
    def orthogonal(matrices: Tensor) -> Tensor:
        """Newton-Schulz iteration (quintic) on matrices (N, rows, columns)."""
        x = matrices.bfloat16() if matrices.is_cuda else matrices
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = group["params"]
            gradient = torch.stack([p.grad for p in params])
            state = self.state[params[0]]
            if not state:
                state["buffer"] = torch.zeros_like(gradient)
            state["buffer"].lerp_(gradient, 1 - group["momentum"])
            update = self.orthogonal(gradient.lerp(state["buffer"], group["momentum"]))
            scale = 0.2 * math.sqrt(max(params[0].shape))
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)


def optimizers_of(model: TinyLlama, name: str, rate: float,
                  fused: bool) -> list[torch.optim.Optimizer]:
    """AdamW on everything, or Muon on the matrices of the layers and AdamW on the rest."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    embedding = model.model.embed_tokens.weight
    gains = [p for p in model.parameters() if p.dim() == 1]
    adam = [{"params": [embedding], "weight_decay": 0.1 if name == "adamw" else 0.0},
            {"params": gains, "weight_decay": 0.0}]
    if name == "adamw":
        adam.append({"params": matrices, "weight_decay": 0.1})
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(adam, lr=rate, betas=(0.9, 0.95), fused=fused)]
    if name == "muon":
        result.append(Muon(matrices, lr=rate, weight_decay=0.1))
    return result


def batches(tokens: Tensor, windows: int, length: int,
            generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
    """Endless batches (windows, length + 1) of token ids, and the number of the pass."""
    device = tokens.device
    offsets = torch.arange(length + 1, device=device)
    number = 0
    while True:
        phase = int(torch.randint(length, (1,), generator=generator))
        count = (len(tokens) - phase - 1) // length
        order = torch.randperm(count, generator=generator).to(device)
        for i in range(0, count - windows + 1, windows):
            starts = order[i:i + windows] * length + phase
            yield tokens[starts[:, None] + offsets].long(), number
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("build/corpus/text"),
                        help="folder with train.bin or train.bin.xz")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/tiny"))
    parser.add_argument("--start", type=pathlib.Path,
                        help="folder of a saved model to go on from")
    parser.add_argument("--seconds", type=float, default=420.0,
                        help="time of training, without start and compilation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--windows", type=int, default=64, help="windows of 2,048 a step")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    cuda = args.device.startswith("cuda")
    packed = args.data / "train.bin.xz"
    tokens = read_tokens(packed if packed.exists() else args.data / "train.bin")
    tokens = tokens.to(args.device)
    model = (load(args.start) if args.start else TinyLlama()).to(args.device)
    print(f"{len(tokens):,} training tokens, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    loss_of = torch.compile(model.loss) if cuda else model.loss
    optimizers = optimizers_of(model, args.optimizer, args.rate, fused=cuda)
    generator = torch.Generator().manual_seed(args.seed)
    length = CONFIG["max_position_embeddings"]
    data = batches(tokens, args.windows, length, generator)

    def backward(batch: Tensor) -> Tensor:
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=cuda):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return loss.detach()

    began = time.monotonic()
    backward(next(data)[0])       # compiles
    for optimizer in optimizers:
        optimizer.zero_grad()
    if cuda:
        torch.cuda.synchronize()
    print(f"first step after {time.monotonic() - began:.1f} s", flush=True)

    start = report = time.monotonic()
    step, losses = 0, []
    for batch, number in data:
        now = time.monotonic()
        progress = (now - start) / args.seconds
        if progress >= 1:
            break
        rate = args.rate * min(1.0, (step + 1) / WARMUP_STEPS) \
            * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses.append(backward(batch))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 20 == 0 and cuda:
            torch.cuda.synchronize()
        if now - report >= 10:
            bits = torch.stack(losses).mean().item() / math.log(2)
            done = step * args.windows * length
            print(f"{now - start:6.1f} s  step {step:6d}  pass {number}  rate {rate:.2e}  "
                  f"{bits:.4f} bits/token  {done / (now - start) / 1e6:.2f} M tokens/s",
                  flush=True)
            report, losses = now, []
    save(model, args.out)
    print(f"{step} steps, {step * args.windows * length:,} tokens, "
          f"{time.monotonic() - start:.1f} s, {number} whole passes", flush=True)


if __name__ == "__main__":
    main()
