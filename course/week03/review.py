"""Week 3, find the bug: a prompt-tuned sentiment classifier that keeps its adapter in a file.

It trains, and its loss goes down; then the file cannot be saved, which is a first clue. It has FIVE bugs. Find each one, say
what goes wrong because of it and how you would notice, and mend it. Style is not the question.
"""

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class PromptClassifier(nn.Module):
    """A frozen encoder, `length` trainable vectors in front of its input, and a linear head on the mean of its output."""

    def __init__(self, vocabulary: int = 100, width: int = 32, length: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=64, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.prompt = nn.Parameter(self.embed.weight.data[:length])  # starts as the first words of the vocabulary
        self.head = nn.Linear(width, classes)

    def freeze(self) -> None:
        """Leave the prompt and the head trainable and nothing else."""
        for name, parameter in self.named_parameters():
            if "encoder" in name:
                parameter.requires_grad = False

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Class scores (batch, classes) of tokens (batch, sequence); mask is True where a token is real."""
        batch = tokens.shape[0]
        length = self.prompt.shape[0]
        x = torch.cat([self.prompt.expand(batch, -1, -1), self.embed(tokens)], dim=1)
        longer = torch.cat([mask, torch.ones(batch, length, dtype=torch.bool)], dim=1)
        # the encoder is not batch_first, so it takes (sequence, batch, width), but its mask is (batch, sequence)
        hidden = self.encoder(x.transpose(0, 1), src_key_padding_mask=~longer).transpose(0, 1)
        return self.head(hidden.mean(dim=1))


def save(model: PromptClassifier, path: str) -> None:
    """Write what was trained, and only that."""
    save_file({name: p.data for name, p in model.named_parameters() if p.requires_grad}, path)


def load(model: PromptClassifier, path: str) -> None:
    """Put what was saved into a model that has the same base."""
    saved = load_file(path)
    for name, parameter in model.named_parameters():
        if name in saved:
            parameter.data.copy_(saved[name])


def train(model: PromptClassifier, tokens: Tensor, mask: Tensor, labels: Tensor, steps: int = 50) -> float:
    """A few steps of Adam; returns the last loss."""
    model.freeze()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(tokens, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


if __name__ == "__main__":
    torch.manual_seed(0)
    tokens = torch.randint(0, 100, (16, 12))
    mask = torch.arange(12) < torch.randint(3, 13, (16, 1))
    model = PromptClassifier()
    print(train(model, tokens, mask, (tokens[:, 0] > 50).long()))
    save(model, "prompt.safetensors")
