"""Stream CTR for river: learners as river classifiers."""

from stream_ctr.river.classifier import CTRClassifier

__all__ = ["CTRClassifier"]
