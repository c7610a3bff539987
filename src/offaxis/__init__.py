"""offaxis: an instrument for the geometry of weight updates in LLM post-training."""

__all__ = ["__version__"]

__version__ = "0.1.0"
