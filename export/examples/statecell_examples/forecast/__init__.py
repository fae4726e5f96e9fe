"""A forecaster of the weekly CO2 concentration at Mauna Loa."""

from .model import Forecaster, load
from .series import HELD_OUT, Series

__all__ = ["HELD_OUT", "Forecaster", "Series", "load"]
