"""The tune stage: a hyperparameter search for about the price of one training."""
