"""All pairs of pages as a careful PyTorch user writes them: blocks of the triangle, histogram, thresholds, best match."""

import statistics
import sys
import time

import torch

PAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 32768
ELEMENTS = 16384
BLOCK = 8192
REPEATS = 7


def all_pairs(pages: torch.Tensor, epilogue: bool) -> torch.Tensor:
    """The histogram of cosines, with the epilogue; without it only the products."""
    inverse = torch.linalg.vector_norm(pages, dim=1, dtype=torch.float32).reciprocal()
    histogram = torch.zeros(200, device=pages.device)
    reached = torch.zeros(3, device=pages.device, dtype=torch.int64)
    best = torch.full((pages.shape[0],), -2.0, device=pages.device)
    for row in range(0, pages.shape[0], BLOCK):
        for column in range(0, row + 1, BLOCK):
            product = torch.mm(pages[row : row + BLOCK], pages[column : column + BLOCK].T)
            if not epilogue:
                continue
            cosine = product.float().mul_(inverse[row : row + BLOCK, None]).mul_(inverse[None, column : column + BLOCK])
            if row == column:
                cosine = cosine.tril_(-1)
            histogram += torch.histc(cosine, 200, -1.0, 1.0)
            for i, threshold in enumerate((0.9, 0.95, 0.99)):
                reached[i] += (cosine >= threshold).sum()
            best[row : row + BLOCK] = torch.maximum(best[row : row + BLOCK], cosine.amax(1))
    return histogram


def timed(what: str, work: float, run) -> None:
    """Print the median of several runs."""
    times = []
    for i in range(REPEATS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i > 0:
            times.append(time.perf_counter() - start)
    median = statistics.median(times)
    print(f"{what:34s} {1e3 * median:9.3f} ms [{1e3 * min(times):.3f} .. {1e3 * max(times):.3f}]  "
          f"{work / median * 1e-12:9.1f} TFLOP/s useful", flush=True)


def main() -> None:
    """Time products alone, everything, one large product, a copy."""
    pages = torch.randn(PAGES, ELEMENTS, device="cuda").to(torch.bfloat16)
    work = PAGES * (PAGES - 1) * ELEMENTS
    timed("PyTorch, products of blocks", work, lambda: all_pairs(pages, False))
    timed("PyTorch, everything", work, lambda: all_pairs(pages, True))
    square = pages[:16384]
    timed("PyTorch, 16,384^3 in a row", 8 * 2 * 16384**3, lambda: [torch.mm(square, square.T) for _ in range(8)])
    other = torch.empty_like(pages)
    timed("device copy (bytes, not flops)", 2 * pages.numel() * 2, lambda: other.copy_(pages))


if __name__ == "__main__":
    main()
