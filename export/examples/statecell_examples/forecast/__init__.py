"""A forecaster of the weekly CO2 concentration at Mauna Loa."""

from .model import Forecaster, load
from .series import Series

__all__ = ["Forecaster", "Series", "load"]
