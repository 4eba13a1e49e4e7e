"""One file per application: `make_task(config)`, `describe(config)` and `demo(config, variables, folder)`."""

from experiments import (
    chatbot,
    image_classification,
    intent,
    language_modeling,
    masked_language_modeling,
    sentiment,
    translation,
)

EXPERIMENTS = {
    "chatbot": chatbot,
    "image_classification": image_classification,
    "intent": intent,
    "language_modeling": language_modeling,
    "masked_language_modeling": masked_language_modeling,
    "sentiment": sentiment,
    "translation": translation,
}
