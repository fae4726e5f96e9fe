"""A forecaster of the weekly CO2 concentration at Mauna Loa."""

from statecell_examples.forecast.model import Forecaster, load
from statecell_examples.forecast.series import HELD_OUT, Series

__all__ = ["HELD_OUT", "Forecaster", "Series", "load"]
