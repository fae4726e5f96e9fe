"""`python -m tests.fuzz spec --seconds 60`: coverage-guided fuzzing of one target, from and into a corpus.

Exits with 0 where nothing was found; else libFuzzer leaves the input beside this file's folder `found/` and says what it was.
"""

import argparse
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent

with atheris.instrument_imports(include=["statecell", "statecell_server", "statecell_client", "hpack", "tests.fuzz"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the changes that are tried; 0: another each time")
    parser.add_argument("--corpus", type=Path, help="where new inputs go; the kept ones are read only")
    parser.add_argument("--found", type=Path, default=HERE / "found", help="where an input that breaks the target goes")
    given = parser.parse_args()
    folders = [given.corpus] if given.corpus else []
    for folder in (*folders, given.found):
        folder.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={given.seconds}",
        f"-seed={given.seed}",
        "-timeout=10",  # seconds for one input
        "-rss_limit_mb=2048",
        "-max_len=16384",
        f"-artifact_prefix={given.found}/{given.target}-",
        "-print_final_stats=1",
    ]
    # New inputs go to the first folder: without one of the caller's, libFuzzer keeps them in memory.
    kept = HERE / "corpus" / given.target
    corpora = [str(folder) for folder in folders] + ([str(kept)] if folders else [])
    seeds = [] if folders else [f"-seed_inputs={','.join(str(path) for path in sorted(kept.iterdir()))}"]
    atheris.Setup([sys.argv[0], *flags, *seeds, *corpora], TARGETS[given.target])
    atheris.Fuzz()


main()
