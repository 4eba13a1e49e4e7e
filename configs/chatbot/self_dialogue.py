"""A small Llama that has read 21,797 self-dialogues, about films, music and sports, for a laptop.

Loss, perplexity and bits per byte are those of the replies alone. To talk to it:

python -m experiments train --config=configs/chatbot/self_dialogue.py --workdir=runs/chatbot
python -m experiments demo --workdir=runs/chatbot --chat
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns to repeat what was asked about."""
    config = ConfigDict()
    config.experiment = "chatbot"
    config.seed, config.batch, config.context = 0, 8, 256
    config.source = {"name": "self_dialogue"}
    config.tokenizer = {"name": "bpe", "size": 4000}
    config.model = {"name": "llama", "depth": 4, "heads": 4, "width": 256, "hidden": 704, "tied": True}
    config.optimizer = {"name": "adamw", "b2": 0.98, "weight_decay": 0.1, "clip": 1.0}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 50, "final": 0.05}
    config.plan = {"steps": 1000, "log_every": 20, "eval_every": 500, "save_every": 250}
    config.sampling = {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "length": 60}
    if scale == "smoke":
        config.source = {"name": "synthetic_dialogues", "count": 120}
        config.tokenizer.size = 320
        config.batch, config.context, config.sampling.length = 8, 96, 30
        config.model.depth, config.model.width, config.model.hidden = 2, 32, 64
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5, "final": 0.1}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
