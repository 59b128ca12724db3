"""Week 8, code review: this file has five bugs. Find each one, say what goes wrong because of it, and how to mend it.

It is the server of a federation that trains a small chatbot: it collects LoRA factors, puts them together, adds noise, and
tries the result on a prompt. It runs without an error, which is what makes it worth reading. Style is not the point here: look
for what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PROMPT = "### User:\n{text}\n### Bot:\n"  # what the clients put around each message in training


@dataclass
class Upload:
    down: Tensor  # rank x in
    up: Tensor  # out x rank
    examples: int


def bounded(upload: Upload, limit: float) -> Upload:
    """The upload, shortened so that one client cannot dominate the round."""
    down = upload.down * min(1.0, limit / float(upload.down.norm()))
    up = upload.up * min(1.0, limit / float(upload.up.norm()))
    return Upload(down, up, upload.examples)


def one_round(weight: Tensor, uploads: list[Upload], alpha: float, limit: float, sigma: float) -> Tensor:
    """The weight after a round: every example of the federation counts the same, and the average gets noise."""
    uploads = [bounded(u, limit) for u in uploads]
    down = sum(u.down for u in uploads) / len(uploads)
    up = sum(u.up for u in uploads) / len(uploads)
    noise = sigma * limit / len(uploads)
    down = down + noise * torch.randn(down.shape)
    up = up + noise * torch.randn(up.shape)
    return weight + alpha / len(down) * up @ down


def nucleus(logits: Tensor, p: float) -> Tensor:
    """Probabilities of the tokens that may be drawn, the others at zero."""
    probabilities = logits.softmax(-1)
    ordered, tokens = probabilities.sort(descending=True)
    keep = ordered.cumsum(-1) < p
    keep[0] = True
    kept = torch.zeros_like(probabilities)
    kept[tokens[keep]] = ordered[keep]
    return kept / kept.sum()


@torch.no_grad()
def try_out(model, tokenizer, text: str, length: int = 20, p: float = 0.9) -> str:
    model.eval()
    ids = tokenizer.encode(text)
    start = len(ids)
    for _ in range(length):
        scores = model(torch.tensor(ids)[None])[0][-1]
        token = int(torch.multinomial(nucleus(scores, p), 1))
        if token == tokenizer.eos_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])
