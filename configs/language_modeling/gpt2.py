"""GPT-2 of 124 million parameters on text of your own, for a GPU.

Say where the UTF-8 files lie with --config.source.files.train and --config.source.files.validation; they are
held in memory, as text and as tokens. GPT-2's own tokenizer is read from --config.tokenizer.path, a folder
with its vocab.json and merges.txt; to learn one from the training file instead, make it
{"name": "bpe", "size": 50_257}, as the smoke variant does. An update averages 16 batches of 32 x 1,024
tokens, half a million; take batches that fit the memory. The recipe is that of nanoGPT, for ten billion
tokens; it is not measured here.

python -m experiments train --config=configs/language_modeling/gpt2.py --workdir=runs/gpt2
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is tiny and learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "language_modeling"
    config.seed, config.batch, config.context = 0, 32, 1024
    config.source = {"name": "text_files", "files": {"train": "train.txt", "validation": "validation.txt"}}
    config.tokenizer = {"name": "file", "path": "gpt2"}
    config.model = {"name": "gpt2", "depth": 12, "heads": 12, "width": 768, "dtype": "bfloat16"}
    config.optimizer = {"name": "adamw", "b2": 0.95, "weight_decay": 0.1, "clip": 1.0, "accumulate": 16}
    config.schedule = {"name": "cosine", "peak": 6e-4, "warmup": 11_200, "final": 0.0}
    config.plan = {"steps": 305_000, "log_every": 160, "eval_every": 4000, "save_every": 4000}
    config.sampling = {"temperature": 0.8, "top_k": 200, "length": 400}
    if scale == "smoke":
        config.source = {"name": "synthetic_text", "count": 400}
        config.tokenizer = {"name": "bpe", "size": 300}
        config.batch, config.context, config.sampling.length = 8, 32, 60
        config.model.depth, config.model.heads, config.model.width = 2, 2, 32
        config.model.dtype, config.optimizer.accumulate = "float32", 1
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5, "final": 0.1}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
