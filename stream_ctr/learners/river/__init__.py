"""River's classifiers as learners."""
