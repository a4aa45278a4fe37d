"""The accelerator side: packed rows to a trained model to a Hugging Face folder. Never imports TensorFlow."""

__version__ = "0.1.0"
