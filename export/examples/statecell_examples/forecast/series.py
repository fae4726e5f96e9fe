"""The series: atmospheric CO2 at Mauna Loa, a mean a week from March 1958 to December 2001."""

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

CSV = Path(__file__).with_name("co2.csv")

HELD_OUT = 260
"""Weeks at the end, about five years, that no training sees."""


@dataclass(frozen=True)
class Series:
    """`Series.read()`: dates, ppm and observed, all [weeks], evenly spaced by a week.

    59 weeks of 2284 were not measured. There ppm is the straight line between the neighbours and observed is False.
    """

    dates: NDArray[np.datetime64]
    ppm: NDArray[np.float32]
    observed: NDArray[np.bool_]

    @classmethod
    def read(cls) -> Self:
        with CSV.open(newline="") as lines:
            rows = [(datetime.strptime(row["date"], "%Y%m%d"), row["co2"]) for row in csv.DictReader(lines)]
        dates = np.array([date for date, _ in rows], dtype="datetime64[D]")
        observed = np.array([value != "" for _, value in rows])
        measured = np.array([float(value) for _, value in rows if value])
        weeks = np.arange(len(rows))
        ppm = np.interp(weeks, weeks[observed], measured).astype(np.float32)
        return cls(dates, ppm, observed)

    @property
    def change(self) -> NDArray[np.float32]:
        """ppm from each week to the next, float32 [weeks - 1]: change[i] = ppm[i + 1] - ppm[i]."""
        return np.diff(self.ppm)

    @property
    def change_observed(self) -> NDArray[np.bool_]:
        """Where both ends of the change were measured, bool [weeks - 1]. Only these are learned from and scored."""
        return self.observed[1:] & self.observed[:-1]

    def held_out_rmse(self, predicted: NDArray[np.float32]) -> float:
        """The root mean square error, in ppm, of predictions of the last HELD_OUT changes, float32 [HELD_OUT].

        Zeros are the persistence baseline: next week will be as this week was.
        """
        if predicted.shape != (HELD_OUT,):
            raise ValueError(f"predicted has shape {list(predicted.shape)}, expected [{HELD_OUT}]")
        error = (predicted - self.change[-HELD_OUT:])[self.change_observed[-HELD_OUT:]]
        return float(np.sqrt(np.mean(error**2)))
