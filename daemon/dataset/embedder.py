"""The embedding child: `python -m daemon.dataset.embedder` reads a job from standard input and writes vectors.

Each vector file appears by rename when its batch is done, so a killed child leaves only complete vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import connectors.torch_extras  # noqa: F401  # isort: skip - before transformers looks for them
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from daemon.dataset.embeddings import EmbeddingJob, vector_file
from daemon.runtime.child import die_with_the_daemon
from daemon.runtime.machine import cpu_has_bfloat16

BATCH_TEXTS = 16
MAX_TOKENS = 256
"""Longer texts are truncated."""
NOTHING = "."
"""Replaces an empty text, which has no token for the mean."""


def main() -> int:
    die_with_the_daemon()
    job = EmbeddingJob.model_validate_json(sys.stdin.buffer.read())
    for text, vector in _vectors(job):
        path = vector_file(job.folder, text)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, vector)
        partial.rename(path)
    return 0


def _vectors(job: EmbeddingJob) -> Iterator[tuple[str, NDArray[np.float32]]]:
    tokenizer = AutoTokenizer.from_pretrained(job.model_path)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    exact = job.device == "cpu" and not cpu_has_bfloat16()
    dtype = torch.float32 if exact else torch.bfloat16
    model = AutoModel.from_pretrained(job.model_path, dtype=dtype).to(job.device).eval()
    texts = sorted(job.texts, key=len)  # similar lengths in a batch: less padding
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = texts[start : start + BATCH_TEXTS]
        yield from zip(batch, _pooled(model, tokenizer, batch), strict=True)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _pooled(model: Any, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    """The mean of each text's last hidden states."""
    given = tokenizer(
        [text if text.strip() else NOTHING for text in texts],
        padding=True,
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    ).to(model.device)
    states = model(**given).last_hidden_state.float()
    mask = given["attention_mask"].unsqueeze(-1)
    means = ((states * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy()
    if not np.isfinite(means).all():
        raise SystemExit("the model's hidden states are not finite")
    pooled: NDArray[np.float32] = means
    return pooled


if __name__ == "__main__":
    sys.exit(main())
