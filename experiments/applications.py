"""One file per application: `make_task(config)`, `describe(config)` and `demo(config, variables, folder)`."""

from experiments import (
    anomaly_detection,
    autoencoding,
    chatbot,
    deep_belief,
    descent,
    forecasting,
    image_classification,
    intent,
    language_modeling,
    masked_language_modeling,
    sentiment,
    tabular,
    teaching,
    translation,
)

EXPERIMENTS = {
    "anomaly_detection": anomaly_detection,
    "autoencoding": autoencoding,
    "chatbot": chatbot,
    "deep_belief": deep_belief,
    "credit_risk": tabular,
    "descent": descent,
    "diagnosis": tabular,
    "forecasting": forecasting,
    "fraud_detection": tabular,
    "image_classification": image_classification,
    "intent": intent,
    "language_modeling": language_modeling,
    "masked_language_modeling": masked_language_modeling,
    "regression": tabular,
    "sentiment": sentiment,
    "teaching": teaching,
    "translation": translation,
}
